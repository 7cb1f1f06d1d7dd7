"""Training settings for the images and classes that a description names."""

from typing import Any

from contract.errors import ConfigurationError
from federated_learning.run_records import Description
from federated_learning.training_settings import TrainingSettings, changed


def fitted(settings: TrainingSettings, description: Description, **changes: Any) -> TrainingSettings:
    """The settings with `changes`, for a network of the description's channels and classes.

    Raises ConfigurationError where the two contradict each other.
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
    settings = changed(settings, **wanted, **changes)
    if settings.stages[-1].size != description.input.height:
        raise ConfigurationError(
            f"the last stage must be at the model's size, {description.input.height} pixels: change the stages "
            "(--stages, or those of the settings)"
        )
    return settings
