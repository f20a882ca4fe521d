"""The paper's convolutional network (Section 4.1) in PyTorch."""

from torch import nn


def cnn(classes=10):
    """Maps images (batch, 1, 28, 28) to logits (batch, classes)."""
    return nn.Sequential(
        nn.Conv2d(1, 32, 3),
        nn.ReLU(),
        nn.Conv2d(32, 64, 3),
        nn.ReLU(),
        nn.MaxPool2d(2),
        nn.Dropout(0.25),
        nn.Flatten(),
        nn.Linear(9216, 128),
        nn.ReLU(),
        nn.Dropout(0.5),
        nn.Linear(128, classes),
    )
