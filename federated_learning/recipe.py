"""How the shipped model is trained: one recipe for the centralised run, a hospital alone and the federation."""

from federated_learning.settings import Stage, TrainingSettings

PEDIATRIC_PNEUMONIA_RECIPE = TrainingSettings(
    architecture="resnet18-normaliser-free",
    dropout=0.2,
    # Most is learnt from small images, at a fifth of the time; the last epochs are at the model's own size. Batches are
    # small because a federation of three takes only a third of the steps that a centralised run takes in an epoch.
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
