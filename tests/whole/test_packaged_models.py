"""Models that packages ship: equal to themselves in other words, and one thing changed is found and named.

The packages are fetched when the proof runs (`make acceptance`); nothing of them is kept.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import model_changes as changes
import numpy as np
import onnxruntime
import pytest
import soundfile
import torch
from onnx import ModelProto
from packaged_models import SHIPPED, Feeds, Shipped, Wheels
from plain_runs import Oracle
from small_networks import Network

from onnxscope import check, diff, features, snapshot, stats
from onnxscope.base.run_options import RunOptions
from onnxscope.comparison.result import Comparison
from onnxscope.datasets.dataset import open_dataset
from onnxscope.errors import OnnxscopeError
from onnxscope.gate.baseline import Baseline
from onnxscope.gate.check_result import Check
from onnxscope.model.loading import load_model
from onnxscope.readers.log_mel import mel_bands
from onnxscope.readers.sound_recipes import SOUND_RECIPES

WAYS = ("diff", "diff without data", "check", "check without data")
KNOWN = {
    # The extended level makes one Split of two Slices; with data that counts for nothing, but in this file the other
    # branch of an If does not run, so that its nodes alone can be judged.
    "silero-vad silero_vad.onnx: extended copy, diff": "undecided",
    "silero-vad silero_vad_op18_ifless.onnx: extended copy, diff": "undecided",
    # Codes of eight bits that one rounding turns over: on noise this network is a tenth off from run to run, and its
    # optimized copies have other scales, of two quantizations made one.
    **{
        f"pipecat-ai smart-turn-v3.2-cpu.onnx: {kind}, {way}": "undecided"
        for kind in ("itself", "renamed, reordered", "its inputs too")
        for way in ("diff", "check")
    },
    "pipecat-ai smart-turn-v3.2-cpu.onnx: basic copy, diff": "differs",
    "pipecat-ai smart-turn-v3.2-cpu.onnx: extended copy, diff": "differs",
}
"""What is not equal though it means the same, with what is said instead."""


class Models:
    """A packaged model, and what is asked about copies of it."""

    def __init__(self, model: ModelProto, feeds: Feeds) -> None:
        self._model = model
        self._feeds = feeds
        self._baselines: tuple[Baseline, Baseline] = (snapshot(model, feeds), snapshot(model))
        self._names = load_model(model)

    def ask(self, way: str, other: ModelProto) -> Comparison | Check:
        feeds = None if way.endswith("without data") else self._feeds
        if way.startswith("diff"):
            return diff(self._model, other, feeds)
        return check(other, self._baselines[feeds is None], feeds)

    def decision(self, way: str, other: ModelProto) -> str:
        try:
            return self.ask(way, other).verdict
        except OnnxscopeError as error:
            return f"refused, {error}"

    def names_of(self, change: changes.Change) -> set[str]:
        """What a finding may call the place: the initializer, a node or value at it, its layer, its operator."""
        names = set(change.places)
        for graph in self._names.graphs.values():
            for node in graph.nodes:
                if change.places & {node.name, *node.outputs}:
                    names |= {node.op_type, node.operator.kind, self._names.names.layers.get(node, "")}
                if node.op_type == "Sqrt" and change.places & {node.name, *node.inputs, *node.outputs}:
                    names.add("epsilon")  # of a normalization that is written out
        return names - {""}

    def is_named(self, way: str, change: changes.Change) -> bool:
        found = self.ask(way, change.model).to_dict()
        told = [found.get(key) for key in ("guilty", "weights", "structure", "findings")]
        return any(name in str(told) for name in self.names_of(change))


def copies(model: ModelProto, folder: Path) -> Iterator[tuple[str, ModelProto, tuple[str, ...]]]:
    """What means the same, and the ways to find that out."""
    rng = np.random.default_rng(5)
    yield "itself", changes.copied(model), WAYS
    yield "renamed, reordered", changes.rewritten(model, rng), WAYS
    yield "its inputs too", changes.rewritten(model, rng, interface=True), WAYS[:2]
    yield "basic copy", changes.optimized(model, "BASIC", folder), WAYS[:1]
    yield "extended copy", changes.optimized(model, "EXTENDED", folder), WAYS[:1]


def single_changes(model: ModelProto, feeds: Feeds) -> Iterator[tuple[str, changes.Change | None]]:
    rng = np.random.default_rng(6)
    oracle = Oracle(Network(model, feeds))
    yield "one weight", changes.with_numbers(model, rng, changes.is_weight, changes.moved_entry(rng))
    drawn = (changes.with_numbers(model, rng, changes.is_constant, changes.moved_entry(rng)) for _ in range(20))
    yield "one constant", next((change for change in drawn if change is None or oracle.runs(change.model)), None)
    yield "one attribute", changes.with_attribute(model, rng, oracle.moves)


def prove(shipped: Shipped, model: ModelProto, folder: Path, counts: Counter[str]) -> list[str]:
    """Compare a model with its copies, and return what went wrong."""
    faults = []
    feeds = shipped.feeds()
    models = Models(model, feeds)
    for kind, other, ways in copies(model, folder):
        for way in ways:
            decision = models.decision(way, other)
            counts[f"{kind}, {way}: {decision.partition(',')[0]}"] += 1
            where = f"{shipped.name}: {kind}, {way}"
            if decision != KNOWN.get(where, "equal"):
                faults.append(f"{where}: {decision}")
    for kind, change in single_changes(model, feeds):
        for way in WAYS if change is not None else ():
            decision = models.decision(way, change.model)
            word = "named" if decision == "differs" and models.is_named(way, change) else decision.partition(",")[0]
            counts[f"{kind}, {way}: {word}"] += 1
            if word != "named":
                faults.append(f"{shipped.name}: {kind} {change.what}, {way}: {decision}, not named")
    return faults


@pytest.mark.acceptance
def test_models_that_packages_ship_are_equal_to_themselves_in_other_words_and_changes_are_named(tmp_path):
    wheels = Wheels(tmp_path)
    faults: list[str] = []
    counts: Counter[str] = Counter()
    for shipped in SHIPPED:
        try:
            model = wheels.model(shipped)
        except LookupError as error:
            faults.append(f"{error}")
            continue
        found = prove(shipped, model, tmp_path, counts)
        print(f"{shipped.name}: {len(found)} faults", *found, sep="\n    ")
        faults += found
    print(f"{len(SHIPPED)} models", *(f"{kind}: {count}" for kind, count in counts.items()), sep="\n")
    assert len(SHIPPED) >= 30
    assert faults == []


@pytest.mark.acceptance
def test_random_input_runs_on_models_that_packages_ship(tmp_path):
    wheels = Wheels(tmp_path)
    faults: list[str] = []
    for shipped in SHIPPED:
        try:
            model = wheels.model(shipped)
            fed = open_dataset("random", load_model(model), RunOptions()).whole().arrays
            onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"]).run(None, fed)
        except Exception as error:  # onnxruntime raises many unrelated classes
            faults.append(f"{shipped.name}: {error}")
    assert faults == []


SPEECH = [shipped for shipped in SHIPPED if {"input", "state"} <= shipped.feeds().keys()]
PIECES = {"features": "wave", "rate": 16_000, "length": 576, "context": 64}
TURNS = {"seconds": 8, "pad": "start", "standardize": True, "drop_last": True, "range": 8, "mean": -4, "std": 4}


def sweep(seconds: float, rate: int) -> np.ndarray:
    time = np.arange(round(rate * seconds)) / rate
    return (0.4 * np.sin(2 * np.pi * (200 + 600 * time) * time)).astype(np.float32)


def speech_by_hand(model: ModelProto, sound: np.ndarray) -> np.ndarray:
    """As silero's own package goes over a sound: pieces of 512, each behind the last 64 samples of the one before."""
    session = onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    names = [value.name for value in session.get_inputs()]
    padded = np.pad(sound, (64, -len(sound) % 512))
    state, said = np.zeros((2, 1, 128), np.float32), []
    for start in range(0, len(padded) - 64, 512):
        feeds = {"input": padded[None, start : start + 576], "state": state, "sr": np.array(16_000)}
        output, state = session.run(["output", "stateN"], {name: feeds[name] for name in names})
        said.append(output)
    return np.concatenate(said)


@pytest.mark.acceptance
@pytest.mark.parametrize(
    "shipped", [one for one in SHIPPED if {"input", "state"} <= one.feeds().keys()], ids=lambda one: one.name
)
def test_a_voice_model_is_stepped_as_its_package_does(shipped, tmp_path):
    model = Wheels(tmp_path).model(shipped)
    soundfile.write(tmp_path / "a.wav", sweep(3, 16_000), 16_000, subtype="FLOAT")
    maps = features(model, tmp_path / "a.wav", select="value:output", preprocess=json.dumps(PIECES))
    assert np.abs(maps[0].data - speech_by_hand(model, sweep(3, 16_000))).max() < 1e-6
    assert stats(model, tmp_path / "a.wav", preprocess=json.dumps(PIECES)).profile.samples == 94


@pytest.mark.acceptance
def test_a_model_of_turns_hears_what_its_package_computes(tmp_path):
    """Its package takes transformers' features; here they are torch's, with the bands that transformers has."""
    shipped = next(one for one in SHIPPED if "smart-turn" in one.path)
    model = Wheels(tmp_path).model(shipped)
    sound = sweep(3, 16_000)
    soundfile.write(tmp_path / "a.wav", sound, 16_000, subtype="FLOAT")
    padded = np.pad(sound, (8 * 16_000 - len(sound), 0)).astype(np.float64)
    standard = torch.from_numpy((padded - padded.mean()) / np.sqrt(padded.var() + 1e-7))
    window = torch.hann_window(400, dtype=torch.float64)
    power = torch.stft(standard, 400, 160, window=window, return_complex=True)[..., :-1].abs() ** 2
    logarithms = (torch.from_numpy(mel_bands(SOUND_RECIPES["whisper"])) @ power).clamp(min=1e-10).log10()
    expected = ((torch.maximum(logarithms, logarithms.max() - 8) + 4) / 4).numpy()
    options = RunOptions(preprocess=json.dumps(TURNS))
    fed = open_dataset(str(tmp_path / "a.wav"), load_model(model), options).whole().arrays["input_features"]
    assert fed.shape == (1, 80, 800)
    assert np.abs(fed[0] - expected).max() < 1e-4
