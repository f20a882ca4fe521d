"""The paper's text classifier (Section 4.2) in PyTorch."""

from torch import nn


class Transformer(nn.Module):
    """Maps tokens (batch, length), 0 for padding, to logits (batch, classes).

    The encoder knows neither positions nor padding, and the layer norm before it is
    also the one after it.
    """

    def __init__(self, vocabulary, width=600, heads=30, inner_width=2048, classes=3):
        super().__init__()
        self.embedding = nn.Embedding(vocabulary, width, padding_idx=0)
        self.dropout = nn.Dropout(0.1)
        self.norm = nn.LayerNorm(width)
        self.encoder = nn.TransformerEncoderLayer(
            width, heads, inner_width, dropout=0.1, batch_first=True
        )
        self.classifier = nn.Linear(width, classes)

    def forward(self, tokens):
        x = self.norm(self.dropout(self.embedding(tokens)))
        return self.classifier(self.norm(self.encoder(x))[:, -1])
