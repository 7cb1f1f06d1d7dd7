"""How the shipped model is trained: one recipe for the centralised run, a hospital alone and the federation."""

from federated_learning.settings import Stage, TrainingSettings

PEDIATRIC_PNEUMONIA_RECIPE = TrainingSettings(
    architecture="resnet18-normaliser-free",
    dropout=0.2,
    stages=(Stage(size=112, epochs=40), Stage(size=224, epochs=4)),
    warm_up=0.1,
    precision="bfloat16",
)
