"""What the shipped model is and how it is trained: one recipe for one place, one hospital or several."""

from pathlib import Path
from typing import Annotated, Any, Final

from pydantic import BeforeValidator

from contract.errors import ConfigurationError
from contract.model_card import AgeRange, InputSpecification, Modality, OutputPolicy, View
from federated_learning.augmentation import NONE
from federated_learning.run_records import Description, read_description
from federated_learning.training_settings import Stage, TrainingSettings, change_settings

PEDIATRIC: Final = "pediatric-pneumonia"
"""What `--description` and settings may say instead of a description of their own: the shipped model's."""

PEDIATRIC_PNEUMONIA_RECIPE = TrainingSettings(
    architecture="resnet18-normaliser-free",
    dropout=0.2,
    # Most is learnt from small images, at a fifth of the time; the last epochs are at the model's own size. Batches are
    # small because three hospitals together take only a third of the steps that a centralised run takes in an epoch.
    stages=(
        Stage(size=112, epochs=40, batch=16),
        Stage(size=224, epochs=24, batch=16),
    ),
    warm_up=0.08,
    average_decay=0.99,
    sync_every=34,
    server_momentum=0.8,
    precision="bfloat16",
)

PEDIATRIC_PNEUMONIA = Description(
    name="pediatric-pneumonia-resnet18",
    version="2.0.0",
    title="Pneumonia in chest radiographs of children: normal, bacterial or viral",
    intended_use=(
        "Research use only, not a medical device. Sorts frontal (anterior-posterior) chest radiographs of children of "
        "one to five years into normal, bacterial pneumonia and viral pneumonia. Trained on one hospital's images, "
        "stored as 8-bit JPEG; not validated on adults, other hospitals, other views or other findings, and its labels "
        "are readings of radiographs, not laboratory results. Not for diagnosis or treatment of patients."
    ),
    input=InputSpecification(
        modalities=(Modality.CR, Modality.DX),
        body_parts=("CHEST", "THORAX"),
        views=(View.AP,),
        ages=AgeRange(youngest=1, oldest=5),
        channels=1,
        height=224,
        width=224,
        # Constants rather than statistics of the data: a federated site would have to reveal its own.
        mean=(0.48,),
        standard_deviation=(0.23,),
    ),
    classes=("normal", "bacteria", "virus"),
    data_set="Kermany et al. 2018, chest X-ray, 224 x 224 JPEG",
    training=(
        "Trained from random weights on the radiographs of Kermany et al. 2018 (Guangzhou Women and Children's Medical "
        "Center), split by patient, between hospitals as well, which are parts of this one data set; copies of images "
        "are left out everywhere."
    ),
    citations=(
        (
            "Kermany, Daniel; Zhang, Kang; Goldbaum, Michael (2018), Labeled Optical Coherence Tomography (OCT) and "
            "Chest X-Ray Images for Classification, Mendeley Data, V2, doi:10.17632/rscbjbr9sj.2, licence CC BY 4.0 "
            "(https://creativecommons.org/licenses/by/4.0/). The images were resized to 224 x 224 pixels."
        ),
        (
            "Kermany, D. S. et al. (2018), Identifying Medical Diagnoses and Treatable Diseases by Image-Based Deep "
            "Learning, Cell 172(5), 1122-1131, doi:10.1016/j.cell.2018.02.010."
        ),
    ),
    # Its weights are public, so a heat map gives nothing of them away.
    output_policy=OutputPolicy.LOGITS_AND_HEAT_MAP,
)


def fit_to_description(settings: TrainingSettings, description: Description, **changes: Any) -> TrainingSettings:
    """The settings with `changes`, for a network of the description's channels and classes.

    Raises ConfigurationError if the two contradict each other.
    """
    wanted = {"channels": description.input.channels, "classes": len(description.classes)}
    for name, value in wanted.items():
        if name in settings.model_fields_set and getattr(settings, name) != value:
            raise ConfigurationError(
                f"the training settings say {getattr(settings, name)} {name}, the description {value}: leave {name} "
                "out of the settings"
            )
    if description.input.height != description.input.width:
        raise ConfigurationError("training needs square images: give the description equal height and width")
    settings = change_settings(settings, **wanted, **changes)
    if settings.stages[-1].size != description.input.height:
        raise ConfigurationError(
            f"the last stage must be at the model's size, {description.input.height} pixels: change the stages "
            "(--stages, or those of the settings)"
        )
    return settings


def make_private_recipe(description: Description, *, epochs: int) -> TrainingSettings:
    """A narrow network for a run with privacy: one step a round, without what would void it."""
    return TrainingSettings(
        architecture="resnet10-narrow-normaliser-free",
        stages=(Stage(size=description.input.height, epochs=epochs, batch=64),),
        optimizer="sgd",
        momentum=0.0,
        server_momentum=0.9,
        peak_rate=0.2,
        weight_decay=0.0,
        label_smoothing=0.0,
        augmentation=NONE,
    )


def find_description(words: str) -> Description:
    """The shipped model's by its name, else the one in a JSON file. Raises ConfigurationError."""
    return PEDIATRIC_PNEUMONIA if words == PEDIATRIC else read_description(Path(words))


NamedDescription = Annotated[
    Description, BeforeValidator(lambda value: PEDIATRIC_PNEUMONIA if value == PEDIATRIC else value)
]
"""A description in settings: a table, or the name `PEDIATRIC`."""
