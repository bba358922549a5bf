"""What people do today, as the tutorials show it: loops over layers with pyplot.

`python -m benchmarks.tutorial weights FOLDER` and `… pictures FOLDER PHOTO` run a loop as a program of its own.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt
import numpy as np


def draw_weights(parameters: dict[str, Any], folder: Path) -> None:
    """Print four statistics of every parameter and save a histogram of each."""
    for name, parameter in parameters.items():
        if not parameter.is_floating_point():
            continue
        print(name, parameter.mean(), parameter.std(), parameter.min(), parameter.max())
        plt.hist(parameter.flatten().numpy(), bins=50)
        plt.title(name)
        plt.savefig(folder / f"{name}.png")
        plt.close()


def draw_pictures(maps: dict[str, np.ndarray], folder: Path) -> None:
    """Save the first twelve channels of every layer as a figure of 3x4 subplots; maps are (channels, height, width)."""
    for name, channels in maps.items():
        plt.figure()
        for place in range(12):
            plt.subplot(3, 4, place + 1)
            plt.imshow(channels[place])
            plt.axis("off")
        plt.savefig(folder / f"{name}.png")
        plt.close()


def hooked_maps(photograph: str) -> dict[str, np.ndarray]:
    """Run ResNet50 on a photograph with a forward hook on every convolution."""
    import torch
    from PIL import Image

    from onnxscope_torch.networks import resnet50

    torch.manual_seed(0)
    network = resnet50().eval()
    maps: dict[str, np.ndarray] = {}

    def keep(name: str) -> Any:
        return lambda module, arguments, output: maps.__setitem__(name, output[0].numpy())

    for name, module in network.named_modules():
        if isinstance(module, torch.nn.Conv2d):
            module.register_forward_hook(keep(name))
    pixels = np.asarray(Image.open(photograph).convert("RGB").resize((224, 224)), np.float32) / 255
    with torch.no_grad():
        network(torch.from_numpy(pixels.transpose(2, 0, 1)[None]))
    return maps


def main() -> None:
    """Run one of the loops on ResNet50."""
    what, folder = sys.argv[1], Path(sys.argv[2])
    if what == "weights":
        import torch

        from onnxscope_torch.networks import resnet50

        torch.manual_seed(0)
        draw_weights(resnet50().state_dict(), folder)
    else:
        draw_pictures(hooked_maps(sys.argv[3]), folder)


if __name__ == "__main__":
    main()
