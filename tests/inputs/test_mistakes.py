"""What cannot be fed: what the model takes, what was given, and the command that comes nearest, in two lines."""

from __future__ import annotations

import io

import numpy as np
import onnx
import pytest
from onnx import numpy_helper
from PIL import Image

from onnxscope.base.run_options import RunOptions
from onnxscope.cli.main import run
from onnxscope.datasets.dataset import open_dataset
from onnxscope.errors import InputError
from onnxscope.model.loading import load_model

GRAPHS = {
    "cnn": "g (float[batch, 3, 8, 8] pixels) => (float[batch, 3, 8, 8] y) { y = Relu (pixels) }",
    "text": """g (int64[batch, seq] ids, int64[batch, seq] mask) => (float[batch, seq, 2] y) <int64[1] last = {2}> {
        e = Gather (table, ids)  f = Cast <to = 1> (mask)  u = Unsqueeze (f, last)  [weigh] y = Mul (e, u) }""",
    "table": "g (float[batch, 5] features) => (float[batch, 5] y) { y = Relu (features) }",
    "fixed": "g (float[4, 5] features) => (float[4, 5] y) { y = Relu (features) }",
    "words": "g (string[n] words) => (string[n] y) { y = Identity (words) }",
    "list": "g (seq(float[n]) xs) => (float[n] y) <int64 place = {0}> { y = SequenceAt (xs, place) }",
}
TAKES = {
    "cnn": "the model takes pixels float32 (batch, 3, 8, 8)",
    "text": "ids int64 (batch, seq)",
    "table": "the model takes features float32 (batch, 5)",
    "fixed": "features float32 (4, 5)",
    "words": "the model takes words str (n,)",
    "list": "the model takes xs sequence of unknown rank",
}


@pytest.fixture(scope="module")
def models():
    loaded = {}
    for name, text in GRAPHS.items():
        proto = onnx.parser.parse_model('<ir_version: 9, opset_import: ["": 18]>' + text)
        if name == "text":
            proto.graph.initializer.append(numpy_helper.from_array(np.ones((50, 2), np.float32), "table"))
        loaded[name] = load_model(proto)
    return loaded


def ids(*shape, of=7, dtype=np.int64):
    return np.full(shape, of, dtype)


def mask(*shape):
    return np.ones(shape, np.int64)


def floats(*shape):
    return np.zeros(shape, np.float32)


MISTAKES = [
    ("cnn", floats(4, 5), "takes (batch, 3, 8, 8), not (4, 5)", "`-i FILE.npy` feeds that, `-i random` needs no data"),
    ("cnn", floats(2, 8, 8, 3), "not (2, 8, 8, 3)", "the array looks channels-last"),
    ("cnn", floats(3, 8, 8), "not (3, 8, 8)", "the batch axis is missing: give `array[None]`"),
    ("cnn", ids(1, 3, 8, 8), "takes float32, not int64", "`array.astype('float32')`"),
    ("cnn", {"pixel": floats(1, 3, 8, 8)}, "no input 'pixel'", "closest names: pixels"),
    ("cnn", "notes.txt", "no text becomes pixels float32 (batch, 3, 8, 8): line 1 of notes.txt", "can hold all inputs"),
    (
        "cnn",
        "notes.md",
        "no kind of input that is known: notes.md",
        "text is a .txt, a sample a line, a .jsonl, or text:",
    ),
    ("cnn", "absent.png", "no such file: absent.png", "an input is an image, "),
    ("cnn", "photo.png", "which preset?", "name it with `--preprocess`"),
    ("text", "photo.png", "the model has 2 inputs, not one: images", "give a .npz with one array for each"),
    (
        "text",
        "notes.txt",
        "no tokenizer makes text into 'ids': line 1 of notes.txt",
        "`--tokenizer tokenizer.json` names",
    ),
    ("text", "text:hello", "no tokenizer makes text into 'ids': the text given", "one beside the model is found"),
    ("text", "text:", "a text with nothing in it: text:", "for example `-i 'text:a first sentence'`"),
    ("text", "blank.txt", "no line with anything in it: blank.txt", "a line is one sample"),
    ("text", "rows.jsonl", "line 1 of rows.jsonl", "the fields: question, answer"),
    ("list", "notes.txt", "no text becomes xs sequence", "can hold all inputs"),
    ("text", ids(1, 4), "the model has 2 inputs, not one", "give a .npz with one array for each"),
    ("text", {"ids": ids(1, 4)}, "no array for the input 'mask'", "the model's inputs: ids int64 (batch, seq)"),
    ("text", {"ids": ids(1, 4), "msk": mask(1, 4)}, "no input 'msk'", "closest names: mask"),
    ("text", {"ids": ids(4), "mask": mask(4)}, "takes (batch, seq), not (4,)", "the batch axis is missing"),
    ("text", {"ids": ids(1, 4, of=50), "mask": mask(1, 4)}, "from 0 to 49, and 50 is none", "vocabulary of another"),
    ("text", {"ids": ids(1, 4, of=-51), "mask": mask(1, 4)}, "from 0 to 49, and -51 is none", "they index a table"),
    ("text", {"ids": ids(1, 4, dtype=np.int32), "mask": mask(1, 4)}, "takes int64, not int32", "of 0 to 49"),
    (
        "text",
        {"ids": ids(1, 4), "mask": mask(1, 3)},
        "inputs differ in the dimension 'seq': 'ids' has 4 and 'mask' 3, which Mul 'weigh' refuses",
        "give both the same size",
    ),
    (
        "text",
        {"ids": ids(2, 4), "mask": mask(3, 4)},
        "inputs differ in the dimension 'batch': 'ids' has 2 and 'mask' 3, which Mul 'weigh' refuses",
        "give both the same size",
    ),
    ("table", floats(5, 4), "takes (batch, 5), not (5, 4)", "`-i random` needs no data"),
    ("table", "photo.png", "an image has no place in an input without height", "give a .npy or .npz file"),
    ("table", "data.parquet", "not a Parquet table, or a broken one", "the model takes features"),
    ("table", "sound.ogg", "not a sound that can be read (Format not recognised)", "the model takes features"),
    ("table", "sound.m4a", "no kind of input that is known", "write the sound as .wav or .flac"),
    ("table", "sound.wav", "not a .wav file, or a broken one", "the model takes features"),
    ("table", "net.pt", "no kind of input that is known", "a model or a checkpoint, which comes before `-i`"),
    ("table", "something", "no kind of input that is known: something", "an input is an image, "),
    ("table", "broken.npy", "not a .npy array, or a broken one", "`-i FILE.npy` feeds that"),
    ("table", "random:x", "the seed 'x' is no whole number", "the model takes features"),
    ("table", ["random", "random"], "2 random inputs, and one is all that is taken", "`--limit N`"),
    ("table", ["photo.png", "broken.npy"], "inputs of different kinds do not mix", "give one kind of input"),
    ("table", "empty", "no image and no file of arrays in the folder: empty", "images end in"),
    ("table", [], "no input is given", "give an image"),
    ("fixed", floats(5, 5), "5 samples do not fill runs of 4", "give a multiple of 4 samples"),
    ("fixed", floats(5, 4), "takes (4, 5), not (5, 4)", "the model takes features float32 (4, 5)"),
    ("words", "random", "no random strings: input 'words'", "`-i FILE.npy` feeds that"),
    ("words", floats(2, 2), "takes (n,), not (2, 2)", "`-i FILE.npy` feeds that"),
    ("list", floats(3), "no array can be fed to sequence: input 'xs'", "the model takes xs sequence"),
]


@pytest.fixture
def folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Image.new("RGB", (8, 8)).save("photo.png")
    contents = {
        "data.parquet": b"PAR1",
        "sound.wav": b"RIFF0000WAVEfmt ",
        "sound.ogg": b"OggS",
        "sound.m4a": b"\0\0\0\0----M4A ",
        "net.pt": b"PK\3\4",
        "something": b"abc",
        "notes.md": b"# hello",
        "blank.txt": b"\n\n",
        "rows.jsonl": b'{"question": "a", "answer": "b"}',
    }
    for name, content in {**contents, "notes.txt": b"hello\n", "broken.npy": b""}.items():
        (tmp_path / name).write_bytes(content)
    (tmp_path / "empty").mkdir()
    return tmp_path


@pytest.mark.parametrize(("name", "given", "fault", "step"), MISTAKES)
def test_a_mistake_is_answered_in_two_lines(name, given, fault, step, models, folder):
    with pytest.raises(InputError) as caught:
        open_dataset(given, models[name], RunOptions()).whole()
    message, hint = str(caught.value), caught.value.hint
    assert fault in message
    assert step in hint
    assert len(message) <= 300
    assert len(hint) <= 300
    assert "\n" not in message + hint
    if "vocabulary" not in hint and "--preprocess" not in hint and "they index" not in hint:
        assert TAKES[name] in hint or TAKES[name].removeprefix("the model takes ") in message + hint


def test_many_inputs_are_told_as_far_as_there_is_room():
    inputs = ", ".join(f"float[batch, 64] measurement_{number}" for number in range(30))
    outputs = ", ".join(f"float[batch, 64] y{number}" for number in range(30))
    nodes = " ".join(f"y{number} = Relu (measurement_{number})" for number in range(30))
    text = f'<ir_version: 9, opset_import: ["": 18]> g ({inputs}) => ({outputs}) {{ {nodes} }}'
    with pytest.raises(InputError) as caught:
        open_dataset({"x": floats(1)}, load_model(onnx.parser.parse_model(text)), RunOptions())
    assert len(caught.value.hint) <= 300


def test_content_tells_what_a_name_does_not(models, folder):
    stream = io.BytesIO()
    np.save(stream, floats(2, 5))
    (folder / "rows").write_bytes(stream.getvalue())
    Image.new("RGB", (8, 8)).save(folder / "picture", "PNG")
    assert open_dataset("rows", models["table"], RunOptions()).count == 2
    assert open_dataset("picture", models["cnn"], RunOptions(preprocess="unit")).kind == "images"


def test_the_same_size_under_one_name_is_not_asked_for_where_the_model_runs():
    """Exporters give one name to dimensions that differ."""
    text = """<ir_version: 9, opset_import: ["": 18]>
        g (float[batch, n] a, float[batch, n] b) => (float[batch, n] y, float[batch, n] z)
        { y = Relu (a)  z = Relu (b) }"""
    model = load_model(onnx.parser.parse_model(text))
    assert open_dataset({"a": floats(2, 3), "b": floats(2, 4)}, model, RunOptions()).count == 2


def test_commands_say_the_same(models, folder, capsys):
    onnx.save(models["text"].proto, "m.onnx")
    assert run(["stats", "m.onnx", "-i", "notes.txt", "-o", "p.json"]) == 2
    error, hint = capsys.readouterr().err.splitlines()
    assert error == "onnxscope: error: no tokenizer makes text into 'ids': line 1 of notes.txt"
    assert "`--tokenizer tokenizer.json` names the model's" in hint
    assert hint.endswith("mask int64 (batch, seq); `-i NAME=FILE.npy` for each feeds that, `-i random` needs no data")
