"""A decoder with a key-value cache as both exporters of torch write it: commands on a text, against torch."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch
from exported_decoders import LAYERS, PAST, PRESENT, export, full_logits, greedy, torch_decoder
from stateful_models import WORDS_OF_IT, small_tokenizer

from onnxscope.cli.main import run

LINES = {"one two three four five": [2, 3, 4, 5, 6], "nine no": [10, 12], "ten seven seven": [11, 8, 8]}


@pytest.fixture(
    scope="module",
    params=[pytest.param(False, id="torchscript"), pytest.param(True, id="dynamo", marks=pytest.mark.acceptance)],
)
def folder(request, tmp_path_factory):
    made = tmp_path_factory.mktemp("decoder")
    export(torch_decoder(), made / "a.onnx", dynamo=request.param)
    changed = torch_decoder()
    with torch.no_grad():
        changed.blocks[1].out.weight.add_(torch.randn(8, 8, generator=torch.Generator().manual_seed(3)))
    export(changed, made / "b.onnx", dynamo=request.param)
    small_tokenizer().save(str(made / "tokenizer.json"))
    (made / "lines.txt").write_text("\n".join(LINES))
    (made / "one.txt").write_text("one two three four five")
    return made


@pytest.fixture
def printed(folder, capsys, monkeypatch):
    """What a command prints as JSON, and what it tells."""
    monkeypatch.chdir(folder)

    def called(line, code=0):
        assert run([*line.split(), "--format", "json"]) == code, capsys.readouterr().err
        output = capsys.readouterr()
        return json.loads(output.out), output.err

    return called


def test_a_text_is_one_run(printed):
    decoder = torch_decoder()
    expected = torch.cat([full_logits(decoder, tokens) for tokens in LINES.values()]).double()
    record, _ = printed("stats a.onnx -i lines.txt -s value:logits -o p.json")
    assert record["taps"][0]["mean"] == pytest.approx(float(expected.mean()), abs=1e-5)
    assert record["taps"][0]["std"] == pytest.approx(float(expected.std()), rel=1e-4)
    record, told = printed("features a.onnx -i one.txt -s value:logits -o f --arrays")
    with np.load("f/features.npz") as arrays:
        assert np.abs(arrays["logits"][0] - full_logits(decoder, LINES["one two three four five"]).numpy()).max() < 1e-5
    assert record["input"]["tokens"] == ["one", "two", "three", "four", "five"]
    assert f"one run over all tokens, {len(PAST)} inputs of the cache empty" in told


def test_steps_are_those_of_torch(printed):
    tokens = LINES["one two three four five"]
    record, told = printed("features a.onnx -i one.txt --state auto -s value:logits -o s --arrays")
    with np.load("s/features.npz") as arrays:
        assert np.abs(arrays["logits"][:, 0] - full_logits(torch_decoder(), tokens).numpy()).max() < 1e-5
    assert record["input"]["state"]["pairs"] == dict(zip(PRESENT, PAST, strict=True))
    assert record["input"]["state"]["steps"] == [5]
    said = next(line for line in told.splitlines() if line.startswith("step by step its scores are "))
    assert "bit for bit" in said or float(said.split("within ")[1].split()[0]) < 1e-5


def test_tokens_are_generated_as_torch_does(printed):
    tokens, decoder = LINES["one two three four five"], torch_decoder()
    record, told = printed("stats a.onnx -i one.txt --generate 6 -o g.json")
    following = greedy(decoder, tokens, 6)
    assert record["input"]["state"]["tokens"] == [tokens + following]
    called = [WORDS_OF_IT[token] for token in following]
    assert record["input"]["state"]["names"][0][-6:] == called
    assert f"one.txt line 1: 6 tokens generated: {' '.join(called)}" in told


@pytest.mark.acceptance
def test_where_two_decoders_part(printed, folder):
    tokens, changed = LINES["one two three four five"], torch_decoder()
    with torch.no_grad():
        changed.blocks[1].out.weight.add_(torch.randn(8, 8, generator=torch.Generator().manual_seed(3)))
    own, other = greedy(torch_decoder(), tokens, 8), greedy(changed, tokens, 8)
    step = next(step for step in range(8) if own[step] != other[step])
    record, told = printed("diff a.onnx b.onnx -i one.txt --generate 8", 1)
    assert record["input"]["state"]["parting"] == {"sequence": 0, "step": step, "a": own[step], "b": other[step]}
    names = [f"{token} '{WORDS_OF_IT[token]}'" for token in (own[step], other[step])]
    assert f"the models part at step {step}: the first says token {names[0]}, the second {names[1]}; " in told
    assert record["first_divergence"]["a"]["layer"] == f"blocks.{LAYERS - 1}.out"


def test_random_input_runs(printed):
    record, _ = printed("features a.onnx -i random -s value:logits -o r")
    assert record["taps"][0]["nan_count"] == 0
