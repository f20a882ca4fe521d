"""The paper's convolutional network (Section 4.1) in PyTorch."""

from torch import nn


class CNN(nn.Module):
    """Maps images (batch, 1, 28, 28) to logits (batch, classes)."""

    def __init__(self, classes=10):
        super().__init__()
        self.conv1 = nn.Conv2d(1, 32, 3)
        self.conv2 = nn.Conv2d(32, 64, 3)
        self.dropout1 = nn.Dropout(0.25)
        self.fc1 = nn.Linear(9216, 128)
        self.dropout2 = nn.Dropout(0.5)
        self.fc2 = nn.Linear(128, classes)

    def forward(self, images):
        x = self.conv2(self.conv1(images).relu()).relu()
        x = self.dropout1(nn.functional.max_pool2d(x, 2)).flatten(1)
        return self.fc2(self.dropout2(self.fc1(x).relu()))
