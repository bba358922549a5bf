"""Draw the figures of the documentation again: `python docs/make_figures.py`, from the repository's root.

They come from the shipped networks with their seeded, untrained weights and the photograph of Grace Hopper that
matplotlib ships, and from the trained network of the fixtures. It needs both frameworks.
"""

from __future__ import annotations

import io
import shutil
import tempfile
from pathlib import Path

import matplotlib
from matplotlib.figure import Figure
from PIL import Image, ImageOps

import onnxscope

IMAGES = Path(__file__).resolve().parent / "images"
PHOTO = Path(matplotlib.get_data_path()) / "sample_data" / "grace_hopper.jpg"
LAYERS = (
    ("torch", "alexnet", ("features.0", "features.10")),
    ("torch", "resnet34", ("layer1",)),
    ("tensorflow", "alexnet", ("conv2d",)),
)


def main() -> None:
    """Convert the networks, run them, and write the figures."""
    IMAGES.mkdir(exist_ok=True)
    with Image.open(PHOTO) as photo:
        ImageOps.fit(photo.convert("RGB"), (224, 224)).save(IMAGES / "photo.jpg", quality=80)
    with tempfile.TemporaryDirectory() as folder:
        for framework, network, layers in LAYERS:
            model = Path(folder, f"{framework}-{network}.onnx")
            onnxscope.convert(framework, network, model)
            maps = onnxscope.features(model, PHOTO, select=layers)
            for layer in layers:
                save(maps.layer(layer).plot(), f"{model.stem}-{layer}")
        model = Path(folder, "torch-alexnet.onnx")
        save(onnxscope.weights(model, select="features.0.weight")[0].plot(), "torch-alexnet-histogram")
        onnxscope.report(Path(folder, "torch-resnet34.onnx"), PHOTO).save(Path(folder, "report.html"))
        save_page(Path(folder, "report.html"), "report")
    trained = IMAGES.parent.parent / "fixtures" / "digits.onnx"
    save(onnxscope.weights(trained, select="block.0.weight")[0].plot(), "digits-histogram")


def save(figure: Figure, name: str) -> None:
    """Write a figure with 64 colours, a third of the size."""
    stream = io.BytesIO()
    figure.savefig(stream, dpi=80)
    image = Image.open(stream).convert("RGB").quantize(64, dither=Image.Dither.NONE)
    image.save(IMAGES / f"{name}.png", optimize=True)


def save_page(page: Path, name: str) -> None:
    """Write what a browser shows of a page first."""
    from playwright.sync_api import sync_playwright

    executable = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))))
    flags = ["--headless", "--no-sandbox", "--disable-gpu", "--disable-background-networking"]
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=executable, args=flags)
        shown = browser.new_page(viewport={"width": 1200, "height": 1180}, device_scale_factor=1)
        shown.goto(page.as_uri())
        picture = Image.open(io.BytesIO(shown.screenshot())).convert("RGB")
        picture.save(IMAGES / f"{name}.webp", quality=82, method=6)  # photographs do not fit into 64 colours
        browser.close()


if __name__ == "__main__":
    main()
