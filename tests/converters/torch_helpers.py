"""Small modules for the tests of the PyTorch converter; each class is a factory that the converter can be given."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn


class Block(nn.Module):
    """A residual block whose ReLU works in place and is called twice."""

    def __init__(self) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(4, 4, 3, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(4)
        self.relu = nn.ReLU(inplace=True)
        self.conv2 = nn.Conv2d(4, 4, 3, padding=1)
        self.bn2 = nn.BatchNorm2d(4)

    def forward(self, x: Tensor) -> Tensor:
        out = self.bn2(self.conv2(self.relu(self.bn1(self.conv1(x)))))
        out += x
        return self.relu(out)


class Residual(nn.Module):
    """Convolutions, BatchNorm (one trained, one as initialized), zero biases, tied and unused weights, a buffer."""

    def __init__(self, classes: int = 5) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 4, 3)
        nn.init.zeros_(self.stem.bias)
        self.layer1 = nn.Sequential(Block(), Block())
        self.features = nn.Sequential(nn.Conv2d(4, 4, 3), nn.ReLU(inplace=True), nn.MaxPool2d(2))
        self.fc = nn.Linear(4, classes)
        self.first = nn.Linear(classes, classes, bias=False)
        self.second = nn.Linear(classes, classes, bias=False)
        self.second.weight = self.first.weight
        self.unused = nn.Linear(3, 3)
        self.register_buffer("scale", torch.tensor(2.5))
        trained = self.layer1[1].bn1
        trained.running_mean.uniform_(-1, 1)
        trained.running_var.uniform_(0.5, 2)

    def forward(self, image: Tensor) -> Tensor:
        pooled = self.features(self.layer1(self.stem(image))).mean((2, 3))
        return self.second(self.first(self.fc(pooled))) * self.scale


class Tokens(nn.Module):
    """Integer input, an argument that is left out, an optional one that is fed, and a dictionary as the result."""

    def __init__(self) -> None:
        super().__init__()
        self.embedding = nn.Embedding(10, 6)
        self.attention = nn.MultiheadAttention(6, 2, batch_first=True)
        self.norm = nn.LayerNorm(6)
        self.head = nn.Linear(6, 3)

    def forward(self, ids: Tensor, skipped: Tensor | None = None, mask: Tensor | None = None) -> dict[str, Any]:
        hidden = self.embedding(ids)
        hidden = self.norm(self.attention(hidden, hidden, hidden)[0])
        if mask is not None:
            hidden = hidden * mask[..., None]
        return {"scores": self.head(hidden), "all": [hidden]}


class Variadic(nn.Module):
    """Takes any number of inputs and returns a list, with one input among the results."""

    def __init__(self) -> None:
        super().__init__()
        self.fc = nn.Linear(4, 4)

    def forward(self, first: Tensor, *others: Tensor) -> list[Tensor]:
        return [self.fc(first + sum(others)), first]


class Recurrent(nn.Module):
    """One convolution called twice, and an LSTM: layers that are no single node each."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv1d(4, 4, 3, padding=1)
        self.lstm = nn.LSTM(4, 5, batch_first=True)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        y = self.conv(self.conv(x))
        return y, self.lstm(y.transpose(1, 2))[0]


class Lazy(nn.Module):
    """Knows its shapes only after its first run."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.LazyConv2d(4, 3)
        self.fc = nn.LazyLinear(5)

    def forward(self, x: Tensor) -> Tensor:
        return self.fc(self.conv(x).flatten(1))


class Half(nn.Module):
    """bfloat16 weights, which numpy does not know by itself."""

    def __init__(self) -> None:
        super().__init__()
        self.fc = nn.Linear(4, 4, dtype=torch.bfloat16)

    def forward(self, x: Tensor) -> Tensor:
        return self.fc(x)


class OneSize(nn.Module):
    """Works for a batch of two only."""

    def __init__(self) -> None:
        super().__init__()
        self.fc = nn.Linear(4, 4)

    def forward(self, x: Tensor) -> Tensor:
        return self.fc(x.reshape(2, 4))


class Classifier(nn.Module):
    """Two convolutions, the first with a stride, for wide pictures; five classes, given as probabilities."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Conv2d(3, 6, 5, stride=2)
        self.second = nn.Conv2d(6, 10, 3, padding=1)
        self.act = nn.GELU()
        self.fc = nn.Linear(10, 5)

    def forward(self, x: Tensor) -> Tensor:
        hidden = self.act(self.second(torch.relu(self.first(x))))
        return torch.softmax(self.fc(hidden.amax((2, 3))), 1)


class Branching(nn.Module):
    """Decides by its data, which dynamo cannot export."""

    def __init__(self) -> None:
        super().__init__()
        self.fc = nn.Linear(4, 4)

    def forward(self, x: Tensor) -> Tensor:
        return self.fc(x) if x.sum() > 0 else x


def number() -> int:
    """No module."""
    return 3


def fail() -> nn.Module:
    """Raises."""
    raise RuntimeError("out of\ncheese")
