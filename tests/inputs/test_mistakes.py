"""What cannot be fed: what the model takes, what was given, and the command that comes nearest, in two lines.

Whatever command a hint names is run.
"""

from __future__ import annotations

import io
import itertools
import json
import re
import shlex

import click
import numpy as np
import onnx
import pytest
import soundfile
from onnx import numpy_helper
from PIL import Image
from text_models import trained

import onnxscope
from onnxscope.base.run_options import FeedingOptions, RunOptions
from onnxscope.cli.main import run
from onnxscope.cli.stats import stats
from onnxscope.datasets.dataset import open_dataset
from onnxscope.errors import InputError
from onnxscope.model.loading import load_model
from onnxscope.selection.feeding_recipes import load_to_run


def recipe_of(model, name, **dims):
    """A recipe's file, of a model with one input."""
    rows = [{"name": name, "dtype": "float32", "shape": None}]
    record = {"schema": "onnxscope.recipe/1", "model": model, "inputs": rows, "dims": dims, "random_dims": {}}
    return json.dumps({**record, "feeding": {}}).encode()


GRAPHS = {
    "cnn": "g (float[batch, 3, 8, 8] pixels) => (float[batch, 3, 8, 8] y) { y = Relu (pixels) }",
    "open": "g (float[batch, 3, h, w] pixels) => (float[batch, 3, h, w] y) { y = Relu (pixels) }",
    "grey": "g (float[batch, 1, 8, 8] scan) => (float[batch, 1, 8, 8] y) { y = Relu (scan) }",
    "codes": "g (int8[batch, 3, 8, 8] pixels) => (int8[batch, 3, 8, 8] y) { y = Identity (pixels) }",
    "square": "g (float[batch, 3, 8, 3] pixels) => (float[batch, 3, 8, 3] y) { y = Relu (pixels) }",
    "pair": """g (float[n, 3, 8, 8] left, float[n, 3, 8, 8] right) => (float[n, 3, 8] y)
        <int64[1] last = {3}> { d = Sub (left, right)  y = ReduceSum <keepdims = 0> (d, last) }""",
    "text": """g (int64[batch, seq] ids, int64[batch, seq] mask) => (float[batch, seq, 2] y) <int64[1] last = {2}> {
        e = Gather (table, ids)  f = Cast <to = 1> (mask)  u = Unsqueeze (f, last)  [weigh] y = Mul (e, u) }""",
    "table": "g (float[batch, 5] features) => (float[batch, 5] y) { y = Relu (features) }",
    "columns": """g (float[n, 1] age, int64[n, 1] rank) => (float[n] y)
        <int64[1] last = {1}> { r = Cast <to = 1> (rank)  s = Add (age, r)  y = Squeeze (s, last) }""",
    "fixed": "g (float[4, 5] features) => (float[4, 5] y) { y = Relu (features) }",
    "words": "g (string[n] words) => (string[n] y) { y = Identity (words) }",
    "list": "g (seq(float[n]) xs) => (float[n] y) <int64 place = {0}> { y = SequenceAt (xs, place) }",
    "wave": "g (float[n, samples] wave) => (float[n, samples] y) { y = Relu (wave) }",
    "mel": "g (float[n, 80, 300] mel) => (float[n, 80, 300] y) { y = Relu (mel) }",
    "mel64": "g (float[n, 64, frames] mel) => (float[n, 64, frames] y) { y = Relu (mel) }",
    "voice": "g (float[n, 512] voice, int64 sr) => (float[n, 512] y) { r = Cast <to = 1> (sr)  y = Mul (voice, r) }",
}
TAKES = {
    "cnn": "pixels float32 (batch, 3, 8, 8)",
    "open": "pixels float32 (batch, 3, h, w)",
    "grey": "scan float32 (batch, 1, 8, 8)",
    "codes": "pixels int8 (batch, 3, 8, 8)",
    "square": "pixels float32 (batch, 3, 8, 3)",
    "pair": "left float32 (n, 3, 8, 8), right float32 (n, 3, 8, 8)",
    "text": "ids int64 (batch, seq)",
    "table": "features float32 (batch, 5)",
    "columns": "age float32 (n, 1), rank int64 (n, 1)",
    "fixed": "features float32 (4, 5)",
    "words": "words str (n,)",
    "list": "xs sequence of unknown rank",
    "wave": "wave float32 (n, samples)",
    "mel": "mel float32 (n, 80, 300)",
    "mel64": "mel float32 (n, 64, frames)",
    "voice": "voice float32 (n, 512), sr int64 ()",
}
ARRAYS = {
    "4x5": np.zeros((4, 5), np.float32),
    "5x5": np.zeros((5, 5), np.float32),
    "5x4": np.zeros((5, 4), np.float32),
    "last": np.zeros((2, 8, 8, 3), np.float32),
    "single": np.zeros((3, 8, 8), np.float32),
    "whole": np.zeros((1, 3, 8, 8), np.int64),
    "objects": np.array([{}, 1], object),
    "letters": np.array([["a"] * 5]),
    "none": np.zeros((0, 5), np.float32),
    "ids": np.full((1, 4), 7),
    "row": np.full(4, 7),
    "high": np.full((1, 4), 50),
    "low": np.full((1, 4), -51),
    "narrow": np.full((1, 4), 7, np.int32),
    "two": np.full((2, 4), 7),
    "treble": np.full((3, 4), 7),
    "three": np.full((1, 3), 7),
}
FILES = {
    "data.parquet": b"PAR1",
    "broken.wav": b"RIFF0000WAVEfmt ",
    "broken.ogg": b"OggS",
    "sound.m4a": b"\0\0\0\0----M4A ",
    "net.pt": b"PK\3\4",
    "something": b"abc",
    "notes.md": b"# hello",
    "notes.txt": b"tap\n",
    "blank.txt": b"\n\n",
    "rows.jsonl": b'{"question": "a", "answer": "b"}',
    "broken.npy": b"",
    "four.csv": b"a,b,c,d\n1,2,3,4\n",
    "word.csv": b"a,b,c,d,e\n1,2,three,4,5\n",
    "empty.csv": b"a,b,c,d,e\n",
    "ages.csv": b"age,name\n30,f\n",
    "ranks.csv": b"age,rank\n30,first\n",
    "gap.csv": b"age,rank\n30,\n",
    "ragged.csv": b"a,b,c,d,e\n1,2,3,4\n",
    "sizes.json": b'{"sizes": 3}',
    "zero.json": b'{"divisor": 0}',
    "bands.json": b'{"bands": 23}',
    "nothing.json": b"{}",
    "other.json": recipe_of("net.onnx", "pixels"),
    "wide.json": recipe_of("table.onnx", "features", width=3),
}
MISTAKES = [
    # of arrays
    ("cnn -i 4x5.npy", "takes (batch, 3, 8, 8), not (4, 5)", "`-i FILE.npy` feeds that, `-i random` needs no data"),
    ("cnn -i last.npy", "not (2, 8, 8, 3)", "the array looks channels-last"),
    ("cnn -i single.npy", "not (3, 8, 8)", "the batch axis is missing: give `array[None]`"),
    ("cnn -i whole.npy", "takes float32, not int64", "`array.astype('float32')`"),
    ("table -i letters.npy", "takes float32, not str", "`-i FILE.npy` feeds that"),
    ("cnn -i pixel=single.npy", "no input 'pixel'", "closest names: pixels"),
    ("text -i ids.npy", "the model has 2 inputs, not one", "`-i FILE.npz` with an array of each name feeds that"),
    ("text -i ids=ids.npy", "no array for the input 'mask'", "`-i ids=ids.npy -i mask=FILE.npy` names all"),
    ("text -i ids=ids.npy -i msk=ids.npy", "no input 'msk'", "closest names: mask"),
    ("text -i ids=row.npy -i mask=row.npy", "takes (batch, seq), not (4,)", "the batch axis is missing"),
    ("text -i ids=high.npy -i mask=ids.npy", "from 0 to 49, and 50 is none", "they index a table of the model"),
    ("text -i ids=low.npy -i mask=ids.npy", "from 0 to 49, and -51 is none", "ids int64 (batch, seq) of 0 to 49"),
    ("text -i ids=narrow.npy -i mask=ids.npy", "takes int64, not int32", "of 0 to 49"),
    (
        "text -i ids=ids.npy -i mask=three.npy",
        "inputs differ in the dimension 'seq': 'ids' has 4 and 'mask' 3, which Mul 'weigh' refuses",
        "give both the same size",
    ),
    ("text -i ids=two.npy -i mask=treble.npy", "'ids' has 2 and 'mask' 3, which Mul 'weigh'", "give both the same"),
    ("table -i 5x4.npy", "takes (batch, 5), not (5, 4)", "`-i random` needs no data"),
    ("fixed -i 5x5.npy", "5 samples do not fill runs of 4", "give a multiple of 4 samples"),
    ("fixed -i 5x4.npy", "takes (4, 5), not (5, 4)", "`-i FILE.npy` feeds that"),
    ("table -i none.npy", "no sample along axis 0", "`-i random` needs no data"),
    ("table -i objects.npy", "an array of Python objects", "`-i FILE.npy` feeds that"),
    ("table -i broken.npy", "not a .npy array, or a broken one", "`-i FILE.npy` feeds that"),
    ("words -i 5x4.npy", "takes (n,), not (5, 4)", "`-i FILE.npy` feeds that"),
    ("list -i 5x4.npy", "no array can be fed to sequence", "no file holds that; `onnxscope inspect MODEL` needs none"),
    ("voice -i voice=4x5.npy -i sr=fast", "no such file: sr=fast", "behind sr= stands no file and no number"),
    ("voice -i voice=4x5.npy -i sr=0.5", "takes int64, not 0.5", "sr int64 ()"),
    # of pictures
    ("cnn -i photo.png", "which preset?", "`--preprocess imagenet`, half, unit, caffe, none, letterbox"),
    ("cnn -i photo.png --preprocess lettrbox", "unknown preset 'lettrbox'", "`--preprocess letterbox`, imagenet"),
    ("cnn -i photo.png --preprocess whisper", "the preset 'whisper' is for sounds", "`--preprocess imagenet`"),
    ("cnn -i photo.png --preprocess absent.json", "no such file: absent.json", "`--preprocess imagenet`"),
    ("cnn -i photo.png --preprocess sizes.json", "unknown key 'sizes'", "its keys: name, resize"),
    ("cnn -i photo.png --preprocess zero.json", "'divisor' is 0", "`--preprocess imagenet`"),
    ("grey -i photo.png --preprocess imagenet", "3 means or deviations for an input of 1", "`--preprocess half`"),
    ("codes -i photo.png --preprocess imagenet", "gives fractions, and the input takes int8", "`-i FILE.npy` feeds"),
    ("cnn -i cut.jpg --preprocess half", "the image is broken", "`-i random` needs no data"),
    ("cnn -i photo.png --preprocess half --size 640", "fixes its pictures at 8 x 8, not 640", "leave `--size` out"),
    ("open -i photo.png --preprocess half --size big", "no size of a picture: 'big'", "`--size 224`, `--size 640x480`"),
    ("cnn -i photo.png --preprocess half --layout nhwc", "not the 8 at axis 3", "leave `--layout` out"),
    ("square -i photo.png --preprocess half", "cannot tell channels-first from", "`--layout nchw` or `--layout nhwc`"),
    ("pair -i photo.png --preprocess half", "2 inputs, not one: images", "`-i left=FILE.png -i right=FILE.png`"),
    ("pair -i left=photo.png --preprocess half", "no array for the input 'right'", "-i right=FILE.npy` names all"),
    ("pair -i photo.png -i left=photo.png --preprocess half", "some files are for an input by name", "as NAME=FILE"),
    ("table -i photo.png", "an image has no place in an input without height", "`-i FILE.npy` feeds that"),
    ("text -i photo.png", "the model has 2 inputs, not one: images", "`-i FILE.npz` with an array of each name"),
    # of sounds
    ("wave -i short.wav", "a sound of 10 samples is none; from 64 on they count", "`-i FILE.npy` feeds that"),
    ("wave -i tone.wav --preprocess half", "the preset 'half' is for images", "`--preprocess speech`, none"),
    ("mel -i tone.wav", "no sound of 16,000 samples becomes float32 (n, 80, 300)", "`--preprocess whisper`, kaldi"),
    ("mel -i tone.wav --preprocess kalid", "unknown preset 'kalid'", "`--preprocess kaldi`, whisper"),
    ("mel -i tone.wav --preprocess bands.json", "23 bands of 'bands' do not become", "`--preprocess whisper`, kaldi"),
    ("mel64 -i tone.wav --preprocess whisper", "80 bands of 'whisper' do not", """`--preprocess '{"bands": 64}'`"""),
    ("voice -i voice=tone.wav", "no array for the input 'sr'", "`-i voice=tone.wav -i sr=8000` names all"),
    (
        "voice -i voice=tone.wav -i sr=16000",
        "the sound for 'voice' has 8,000 samples a second, and 'sr' is told 16000: tone.wav",
        "`-i voice=tone.wav -i sr=8000` tells its own",
    ),
    ("cnn -i tone.wav", "no sound of 16,000 samples becomes float32 (batch, 3, 8, 8)", "`-i FILE.npy` feeds that"),
    ("table -i broken.ogg", "not a sound that can be read (Format not recognised)", "`-i random` needs no data"),
    ("table -i sound.m4a", "no kind of input that is known", "write the sound as .wav or .flac"),
    ("table -i broken.wav", "not a .wav file, or a broken one", "`-i random` needs no data"),
    # of tables
    ("table -i four.csv", "takes 5 columns, and 4 are there", "give a table of those columns alone"),
    ("table -i word.csv", "row 1 of the column 'c' is 'three', and float32 is wanted", "for words, write the number"),
    ("table -i empty.csv", "a table without rows", "`-i FILE.npy` feeds that"),
    ("table -i ragged.csv", "row 1 has 4 values for 5 columns", "`-i FILE.npy` feeds that"),
    ("table -i data.parquet", "not a Parquet table, or a broken one", "`-i FILE.npy` feeds that"),
    ("columns -i ages.csv", "no column for the input 'rank'", "the columns: age, name"),
    ("columns -i ranks.csv", "row 1 of the column 'rank' is 'first', and int64 is wanted", "for words, write the num"),
    ("columns -i gap.csv", "row 1 of the column 'rank' is an empty cell", "where a value is missing, write the number"),
    # of texts
    ("cnn -i notes.txt", "no text becomes pixels float32 (batch, 3, 8, 8): line 1 of notes.txt", "can hold all inputs"),
    ("list -i notes.txt", "no text becomes xs sequence", "can hold all inputs"),
    ("text -i notes.txt", "no tokenizer makes text into 'ids': line 1", "`--tokenizer tokenizer.json` names the"),
    ("text -i text:hello", "no tokenizer makes text into 'ids': the text given", "one beside the model is found"),
    (
        "text -i text: --tokenizer tokens/tokenizer.json",
        "a text with nothing in it: text:",
        "for example `-i 'text:a first sentence'`",
    ),
    ("text -i blank.txt", "no line with anything in it: blank.txt", "a line is one sample"),
    ("text -i rows.jsonl", "line 1 of rows.jsonl", "the fields: question, answer"),
    ("text -i text:a --tokenizer tokens/tokeniser.json", "no such file", "closest files: tokens/tokenizer.json"),
    ("text -i notes.txt --tokenizer nothing.json", "not a tokenizer", "the library `tokenizers` writes"),
    ("cnn -i notes.md", "no kind of input that is known: notes.md", "text is a .txt, a sample a line, a .jsonl"),
    # of what is named
    ("cnn -i phoot.png", "no such file: phoot.png", "closest files: photo.png"),
    ("cnn -i left=phoot.png", "no such file: phoot.png", "closest files: photo.png"),
    ("table -i randon", "no such file: randon", "`-i random` makes numbers up"),
    ("table -i absent/", "no such file: absent/", "an input is an image, "),
    ("table -i *.gif", "no image, no file of arrays, no sound and no text matches: *.gif", "an input is an image, "),
    ("table -i folder", "no text in the folder: folder", "an input is an image, "),
    ("table -i something", "no kind of input that is known: something", "an input is an image, "),
    ("table -i net.pt", "no kind of input that is known", "a model or a checkpoint, which comes before `-i`"),
    ("table -i photo.png -i 5x4.npy", "inputs of different kinds do not mix", "give one kind of input"),
    # of random numbers
    ("table -i random:x", "the seed 'x' is no whole number", "`-i random:7` has one"),
    ("table -i random -i random", "2 random inputs, and one is all that is taken", "`-i random --samples 2`"),
    ("words -i random", "no random strings: input 'words'", "`-i FILE.npy` feeds that"),
    ("cnn -i random --length 5", "no open dimension of the inputs is known to be the length", "leave `--length` out"),
    # of steps
    ("table -i 4x5.npy --step 1", "no step 1: the model is not run step after step", "leave `--step` out, or"),
    ("text -i ids=ids.npy -i mask=ids.npy --step 0", "not run step after step", "leave `--step` out, or"),
    ("cnn -i random --generate 3", "no input of the model takes tokens of (batch, sequence)", "leave `--generate` out"),
    ("table -i 4x5.npy --state auto", "no output of the model feeds an input", "leave `--state` out, or"),
    ("table -i random --state y=features", "every input of the model is a state", "leave `--state` out, or"),
    # of recipes
    ("table -i random --recipe absent.json", "no such file: absent.json", "`--recipe none` goes without"),
    ("table -i random --recipe nothing.json", "not a recipe (no schema in it)", "`onnxscope recipe MODEL` writes one"),
    ("table -i random --recipe photo.png", "not JSON, or cut short: photo.png", "`--recipe none` goes without"),
    ("table -i random --recipe other.json", "of a model with other inputs (net.onnx)", "`--recipe none` goes without"),
    ("table -i random --recipe wide.json", "no dimension of an input is called 'width'", "`--recipe none` goes with"),
    # of other options
    ("text -i random --dim sequ=5", "no dimension of an input is called 'sequ'", "`--dim seq=5`; open are batch, seq"),
    ("cnn -i random --dim pixels:1=4", "the dimension pixels:1 is fixed at 3, not 4", "leave `--dim` out"),
    ("text -i random --mask maks", "no input 'maks' to be a mask", "`--mask mask`"),
    ("cnn -i random --mask pixels", "is no mask of samples by positions", "`--mask none` counts every position"),
    ("table -i 4x5.npy --batch-axis 4", "has no axis 4 for a batch: it has 2 axes", "`--batch-axis 0`"),
    ("table -i 4x5.npy --batch-axis x=0", "no input 'x' has a batch axis", "`--batch-axis features=0`"),
]
NOT_THERE = [
    ("table -i random --length 5..3", "no length: '5..3'", "for example `--length 12`"),
    ("table -i random --dim seq", "not NAME=SIZE: 'seq'", "for example `--dim batch=1`"),
    ("table -i random --batch-axis one", "no axis of samples: 'one'", "`--batch-axis 0`, `--batch-axis none`"),
    ("table -i random --state hn", "no state: 'hn'", "`--state auto`"),
    ("table -i random --by word", "by token or by position, not by 'word'", "`--by position`, as no input"),
    ("table -i random --by token", "no input holds ids of tokens: features float32", "`--by position` takes any"),
    ("text -i random --by tokens", "by token or by position, not by 'tokens'", "`--by token`, `--by token:ID"),
    ("text -i random --by token:table", "no token is 'table': --by token:table", "ids are whole numbers from 0 on"),
    ("text -i random --generate 2 --step 5", "no step 5 among 2", "count from 0: `--step 1` is the last"),
]
"""Of options that the command reads for itself."""


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    path = tmp_path_factory.mktemp("mistakes")
    for name, text in GRAPHS.items():
        proto = onnx.parser.parse_model('<ir_version: 9, opset_import: ["": 18]>' + text)
        if name == "text":
            proto.graph.initializer.append(numpy_helper.from_array(np.ones((50, 2), np.float32), "table"))
        onnx.save(proto, path / f"{name}.onnx")
    for name, array in ARRAYS.items():
        np.save(path / f"{name}.npy", array)
    for name, content in FILES.items():
        (path / name).write_bytes(content)
    Image.new("RGB", (8, 8)).save(path / "photo.png")
    Image.new("RGB", (64, 64)).save(path / "cut.jpg")
    (path / "cut.jpg").write_bytes((path / "cut.jpg").read_bytes()[:200])
    soundfile.write(path / "tone.wav", np.sin(np.arange(16_000) / 5) / 2, 8000)
    soundfile.write(path / "short.wav", np.zeros(10), 8000)
    for name in ("folder", "tokens"):
        (path / name).mkdir()
    trained().save(str(path / "tokens" / "tokenizer.json"))  # one beside the models would be found by itself
    return path


@pytest.fixture
def inside(folder, monkeypatch):
    monkeypatch.chdir(folder)
    return folder


def feed(command):
    """Prepare what a command line names, as all commands that run a model do; returns the model."""
    name, *arguments = shlex.split(command)
    try:
        given = stats.make_context("stats", [f"{name}.onnx", *arguments, "-o", "p.json"]).params
    except click.BadParameter as error:
        raise InputError(error.message, hint=error.hint) from error
    feeding = {option: given[option] for option in FeedingOptions.__annotations__}
    inputs = list(given["inputs"])
    model, options = load_to_run(given["model"], RunOptions(**feeding), inputs, dims=given["dims"])
    open_dataset(inputs, model, options).whole()
    return model


def proposed(command, hint, model):
    """The commands that a hint names, written out, with what their placeholders stand for as files."""
    name, *words = shlex.split(command)
    places = [place for place, word in enumerate(words) if word.startswith("-")]
    options = [words[place : place + 2] for place in places]
    for leave in re.findall(r"leave `(--[a-z-]+)` out", hint):
        yield [name, *itertools.chain(*(option for option in options if option[0] != leave))]
    hint = hint.replace("--tokenizer tokenizer.json", "--tokenizer tokens/tokenizer.json")
    for step in re.findall(r"`((?:-i|--[a-z-]+) [^`]+)`", hint):
        if re.search(r"[A-Z]{4,}(?!\.)|:ID|…", step):
            continue  # NAME=SIZE, of which nobody knows the right one
        new = shlex.split(step)
        kept = [option for option in options if option[0] != new[0]]
        for place, word in enumerate(new):
            of, _, file = word.rpartition("=")
            if re.fullmatch(r"FILE\.(npy|npz|png)", file):
                new[place] = f"{of}={made(file, of, model)}" if of else made(file, of, model)
        yield [name, *itertools.chain(*kept), *new]


def made(file, of, model):
    """A file that holds what the model takes."""
    if file.endswith("png"):
        return "photo.png"
    sizes = {"batch": 1, "n": 1}  # of what was given beside it; the rest is free
    arrays = {
        spec.name: np.zeros([dim if isinstance(dim, int) else sizes.get(dim, 4) for dim in spec.shape], spec.dtype)
        for spec in model.inputs
    }
    if file.endswith("npz"):
        np.savez("made.npz", **arrays)
        return "made.npz"
    np.save("made.npy", arrays[of or model.inputs[0].name])
    return "made.npy"


def answered(command):
    with pytest.raises(InputError) as caught:
        feed(command)
    return str(caught.value), caught.value.hint or ""


@pytest.mark.parametrize(("command", "fault", "step"), MISTAKES)
def test_a_mistake_is_answered_in_two_lines(command, fault, step, inside):
    message, hint = answered(command)
    assert fault in message
    assert step in hint
    assert len(message) <= 300
    assert len(hint) <= 300
    assert "\n" not in message + hint
    assert TAKES[command.split()[0]] in message + hint
    model = load_model(f"{command.split()[0]}.onnx")
    works = list(proposed(command, hint, model))
    for words in works:
        feed(shlex.join(words))
    assert works or "onnxscope inspect MODEL" in hint


def test_there_are_sixty_of_every_kind():
    assert len({command for command, _, _ in MISTAKES}) == len(MISTAKES) >= 60
    assert {command.split()[0] for command, _, _ in MISTAKES} == GRAPHS.keys()


@pytest.mark.parametrize(("command", "fault", "step"), NOT_THERE)
def test_an_option_that_names_nothing_is_shown_as_it_should_be(command, fault, step, inside, capsys):
    name, *arguments = shlex.split(command)
    assert run(["stats", f"{name}.onnx", *arguments, "-o", "p.json", "--force"]) == 2
    error, hint = capsys.readouterr().err.splitlines()
    assert fault in error
    assert step in hint
    for words in proposed(command, hint, None):
        useless = words[-2:] in (
            ["--length", "12"],
            ["--length", "5..64"],
            ["--state", "auto"],
        )  # to this model, though written as it should be
        assert run(["stats", f"{words[0]}.onnx", *words[1:], "-o", "p.json", "--force"]) == (2 if useless else 0), words
        assert useless == (f"leave `{words[-2]}` out" in capsys.readouterr().err)


@pytest.mark.acceptance
@pytest.mark.parametrize(("command", "fault", "step"), MISTAKES)
def test_every_command_and_the_library_say_the_same(command, fault, step, inside, capsys):
    say_the_same(command, fault, step, capsys)


@pytest.mark.parametrize(
    ("command", "fault", "step"),
    [row for row in MISTAKES if row[0] in ("table -i 5x4.npy", "wave -i short.wav", "text -i text:hello")],
)
def test_the_command_and_the_library_say_the_same(command, fault, step, inside, capsys):
    say_the_same(command, fault, step, capsys)


def say_the_same(command, fault, step, capsys):
    name, *arguments = shlex.split(command)
    given = stats.make_context("stats", [f"{name}.onnx", *arguments, "-o", "p.json"]).params
    feeding = {option: given[option] for option in FeedingOptions.__annotations__}
    with pytest.raises(InputError, match=re.escape(fault)) as caught:
        onnxscope.features(f"{name}.onnx", list(given["inputs"]), dims=given["dims"], **feeding)
    assert step in caught.value.hint
    fills_runs = name == "fixed" and "do not fill" in fault  # with copies that do not count
    for words in (["stats", "-o", "p.json"], ["features", "-o", "maps"], ["report", "-o", "page.html"])[fills_runs:]:
        assert run([words[0], f"{name}.onnx", *arguments, *words[1:], "--force"]) == 2
        error, hint = capsys.readouterr().err.splitlines()
        assert fault in error
        assert step in hint
    for words in proposed(command, caught.value.hint, load_model(f"{name}.onnx")):
        assert run(["stats", f"{words[0]}.onnx", *words[1:], "-o", "p.json", "--force"]) == 0, words
        capsys.readouterr()


@pytest.mark.parametrize(
    ("given", "fault", "step"),
    [
        (np.zeros((3, 8, 8), np.float32), "not (3, 8, 8): the array given", "give `array[None]`"),
        ({"pixel": np.zeros((1, 3, 8, 8))}, "no input 'pixel': the arrays given", "closest names: pixels"),
        ({"pixels": "photo.png"}, "no array, but the name of a file", "files are given as 'pixels=photo.png'"),
        ([[1, 2], [3]], "no array can be made of a list (setting an array element with a sequence", "`-i random`"),
        (None, "an array of Python objects (NoneType)", "give numbers"),
        ([], "no input is given", "an input is an image"),
        (Image.new("RGB", (8, 8)), "which preset?", "`--preprocess imagenet`"),
    ],
)
def test_what_python_gives_is_answered_too(given, fault, step, inside):
    with pytest.raises(InputError) as caught:
        open_dataset(given, load_model("cnn.onnx"), RunOptions())
    assert fault in str(caught.value)
    assert step in caught.value.hint
    assert "pixels float32 (batch, 3, 8, 8)" in caught.value.hint


@pytest.mark.parametrize(
    ("options", "fault"),
    [
        ({"samples": "3"}, "samples is '3', not a whole number"),
        ({"step": 1.5}, "step is 1.5, not a whole number"),
        ({"preprocess": {"divisor": 255}}, "preprocess is {'divisor': 255}, not a name, or the path of a file"),
        ({"tokenizer": 3}, "tokenizer is 3, not a name, or the path of a file"),
        ({"mask": 3}, "mask is 3, not the name of an input, or several"),
        ({"mask": ["m", 3]}, "mask is ['m', 3], not the name of an input, or several"),
        ({"batch_size": "4"}, "batch_size is '4', not a whole number"),
        ({"batch_size": 2.0}, "batch_size is 2.0, not a whole number"),
        ({"limit": True}, "limit is True, not a whole number"),
        ({"threads": None}, "threads is None, not a whole number"),
        ({"memory_budget_bytes": "1"}, "memory_budget_bytes is '1', not a whole number"),
        ({"layout": "nhcw"}, "unknown layout 'nhcw'"),
        ({"on_error": "ignore"}, "unknown on_error 'ignore'"),
        ({"size": 1.5}, "size is 1.5, not a whole number, `WIDTHxHEIGHT` or `own`"),
        ({"recipe": b"x"}, "recipe is b'x', not a name, or the path of a file"),
        ({"state": ["y=h"]}, "state is ['y=h'], not inputs by the outputs that feed them, `auto` or `none`"),
        ({"state": {"y": 3}}, "state is ['y', 3], not inputs by the outputs that feed them, `auto` or `none`"),
        ({"batch_axis": [0]}, "batch_axis is [0], not an axis, `none`, or an axis by input"),
        ({"batch_axis": {"x": "0"}}, "batch_axis of 'x' is '0', not a whole number"),
    ],
)
def test_options_of_another_type_are_told(options, fault):
    with pytest.raises(InputError, match=re.escape(fault)):
        RunOptions(**options)


def test_whole_numbers_of_numpy_are_python_s_own():
    options = RunOptions(batch_size=np.int64(4), samples=np.uint8(3), batch_axis={"x": np.int32(1), "y": None})
    assert json.dumps([options.batch_size, options.samples, options.batch_axis]) == '[4, 3, {"x": 1, "y": null}]'


@pytest.mark.parametrize(
    ("options", "fault"),
    [
        ({"batch_size": "4"}, "batch_size is '4', not a whole number"),
        ({"dims": [1]}, "dims is [1], not sizes by the name of a dimension, or by `INPUT:AXIS`"),
        ({"dims": "batch=1"}, "dims is 'batch=1', not sizes by the name of a dimension, or by `INPUT:AXIS`"),
        ({"dims": {0: 1}}, "dims is {0: 1}, not sizes by the name of a dimension, or by `INPUT:AXIS`"),
        ({"custom_ops": 3}, "custom_ops is 3, not a name, or the path of a file"),
    ],
)
def test_functions_tell_them_in_a_line(options, fault, inside):
    for function in (onnxscope.stats, onnxscope.features, onnxscope.snapshot):
        with pytest.raises(InputError, match=re.escape(fault)):
            function("table.onnx", "random", **options)
    if "dims" in options:
        with pytest.raises(InputError, match=re.escape(fault)):
            onnxscope.inspect("table.onnx", **options)


def test_many_inputs_are_told_as_far_as_there_is_room():
    inputs = ", ".join(f"float[batch, 64] measurement_{number}" for number in range(30))
    outputs = ", ".join(f"float[batch, 64] y{number}" for number in range(30))
    nodes = " ".join(f"y{number} = Relu (measurement_{number})" for number in range(30))
    text = f'<ir_version: 9, opset_import: ["": 18]> g ({inputs}) => ({outputs}) {{ {nodes} }}'
    with pytest.raises(InputError) as caught:
        open_dataset({"x": np.zeros(1)}, load_model(onnx.parser.parse_model(text)), RunOptions())
    assert len(caught.value.hint) <= 300


def test_content_tells_what_a_name_does_not(inside):
    stream = io.BytesIO()
    np.save(stream, np.zeros((2, 5), np.float32))
    (inside / "rows").write_bytes(stream.getvalue())
    Image.new("RGB", (8, 8)).save(inside / "picture", "PNG")
    assert open_dataset("rows", load_model("table.onnx"), RunOptions()).count == 2
    assert open_dataset("picture", load_model("cnn.onnx"), RunOptions(preprocess="unit")).kind == "images"


def test_the_same_size_under_one_name_is_not_asked_for_where_the_model_runs():
    """Exporters give one name to dimensions that differ."""
    text = """<ir_version: 9, opset_import: ["": 18]>
        g (float[batch, n] a, float[batch, n] b) => (float[batch, n] y, float[batch, n] z)
        { y = Relu (a)  z = Relu (b) }"""
    model = load_model(onnx.parser.parse_model(text))
    given = {"a": np.zeros((2, 3), np.float32), "b": np.zeros((2, 4), np.float32)}
    assert open_dataset(given, model, RunOptions()).count == 2


def test_a_broken_sample_among_others_can_be_left_out(inside, capsys):
    assert run(["stats", "cnn.onnx", "-i", "photo.png", "-i", "cut.jpg", "--preprocess", "half", "-o", "p.json"]) == 2
    hint = capsys.readouterr().err.splitlines()[1]
    assert "the model takes pixels float32 (batch, 3, 8, 8)" in hint
    assert hint.endswith("`--on-error skip` leaves such samples out, and counts them")
