"""Every JSON that onnxscope prints or writes has a schema in the package, and keeps to it."""

from __future__ import annotations

import copy
import json
import re
import sys
from importlib.resources import files
from pathlib import Path

import matplotlib
import numpy as np
import onnx
import onnx.parser
import pytest
import soundfile
from jsonschema import Draft202012Validator
from planting import scaled
from shimmed_release import write_python
from text_models import trained

import onnxscope
from onnxscope.cli.demo import Tour
from onnxscope.cli.main import run

ROOT = Path(__file__).resolve().parents[2]
FIXTURES = ROOT / "fixtures"
SCHEMAS = {
    path.name.removesuffix(".json"): json.loads(path.read_text(encoding="utf-8"))
    for path in (files(onnxscope) / "schemas").iterdir()
}
MODELS = {
    "nan": "g (float[N, 2, 4, 4] x) => (float[N, 2, 4, 4] y) { z = Sub(x, x)  h = Div(z, z)  y = Relu(h) }",
    "infinite": "g (float[N, 2] x) => (float[N, 2] y) { h = Exp(x)  y = Exp(h) }",
    "empty": "g (float[N, 3] x) => (float[M, 3] y) <int64[1] s = {0}, int64[1] e = {0}, int64[1] a = {0}> "
    "{ h = Relu(x)  y = Slice(h, s, e, a) }",
    "scalar": "g (float[N, 3] x) => (float y) { h = Sigmoid(x)  y = ReduceMean<keepdims=0>(h) }",
    "tokens": "g (int64[N, T] x) => (float[N, T, 2] y) <float[5, 2] table = {0, 1, 2, 3, 4, 5, 6, 7, 8, 9}, "
    "float[2, 2] w = {1, 0, 0, 1}> { h = Gather(table, x)  y = MatMul(h, w) }",
    "unreachable": "g (float[N, 2] x) => (seq(float[N, 2]) y) { h = Relu(x)  y = SequenceConstruct(h, h) }",
    "masked": "g (int64[N, T] ids, int64[N, T] mask) => (float[N, T, 2] y) "
    "<float[5, 2] table = {0, 1, 2, 3, 4, 5, 6, 7, 8, 9}, float[2, 2] w = {1, 0, 0, 1}> "
    "{ h = Gather(table, ids)  y = MatMul(h, w)  z = Identity(mask) }",
    "two": "g (float[N, 3] left, float16[N, 3] right) => (float[N, 3] y) { h = Cast<to=1>(right)  y = Add(left, h) }",
    "odd": "g (float[N, 0] x, float[N, 1] z) => (float[N, 2] y, float[N, 1] v) "
    "<float[0, 2] empty = {}, float[1, 1] nothing = {1}> "
    "{ y = MatMul(x, empty)  v = MatMul(z, nothing) }",
    "normalized": "g (float[N, 3, 8, 8] x) => (float[N, 3, 8, 8] y) "
    "<float[3] one = {1, 1, 1}, float[3] mean = {2, 2, 2}> "
    "{ y = BatchNormalization(x, one, one, mean, one) }",
    "image": "g (float[N, 3, 8, 8] x) => (float[N, 3, 8, 8] y) <float[3, 3, 1, 1] w = {1, 0, 0, 0, 1, 0, 0, 0, 0}> "
    "{ y = Conv(x, w) }",
    "sound": "g (float[N, F, M] x) => (float[N, F, M] y) { y = Relu(x) }",
    "stateful": "g (float[N, 3] x, float[N, 3] h) => (float[N, 3] hn) { hn = Add(x, h) }",
    "noisy": "g (float[N, 3] x) => (float[N, 3] y) <float[3, 3] w = {1, 0, 0, 0, 1, 0, 0, 0, 1}> "
    "{ r = RandomNormalLike<seed = 1.0>(x)  y = MatMul(r, w) }",
}
RECIPE = {"resize": "crop", "size": 8, "shorter_side": 9, "divisor": 255, "mean": [0.5, 0.5, 0.5], "std": 0.5}


def strict(text):
    def refuse(constant):
        raise ValueError(constant)

    return json.loads(text, parse_constant=refuse)


def validator(record):
    name, version = re.fullmatch(r"onnxscope\.(\w+)/(\d+)", record["schema"]).groups()
    assert SCHEMAS[name]["$id"] == f"urn:onnxscope:{name}:{version}"
    return Draft202012Validator(SCHEMAS[name])


def conform(record):
    faults = [f"{fault.json_path}: {fault.message}" for fault in validator(record).iter_errors(record)]
    assert not faults, "\n".join(faults[:5])
    return record


def objects(schema, node, root):
    """Yield every object of a record that has named keys, with its part of the schema."""
    if "$ref" in schema:
        schema = root["$defs"][schema["$ref"].rsplit("/", 1)[1]]
    for branch in schema.get("anyOf", ()):
        if Draft202012Validator({**branch, "$defs": root.get("$defs", {})}).is_valid(node):
            yield from objects(branch, node, root)
    if isinstance(node, dict) and "properties" in schema:
        yield schema, node
        for key, value in node.items():
            yield from objects(schema["properties"][key], value, root)
    elif isinstance(node, list) and isinstance(schema.get("items"), dict):
        for value in node[:1]:
            yield from objects(schema["items"], value, root)


@pytest.fixture(scope="module")
def workplace(tmp_path_factory):
    folder = tmp_path_factory.mktemp("schemas")
    for name, text in MODELS.items():
        model = onnx.parser.parse_model(f'<ir_version: 9, opset_import: ["": 17]> {text}')
        onnx.save(model, folder / f"{name}.onnx")
    for name in ("digits.onnx", "digits_deployed.onnx", "digits_qdq.onnx", "digits.npz", "digits.safetensors"):
        (folder / name).write_bytes((FIXTURES / name).read_bytes())
    photo = Path(matplotlib.get_data_path()) / "sample_data" / "grace_hopper.jpg"
    (folder / "images").mkdir()
    (folder / "images" / "photo.jpg").write_bytes(photo.read_bytes())
    (folder / "images" / "broken.jpg").write_bytes(b"no image")
    (folder / "recipe.json").write_text(json.dumps(RECIPE))
    (folder / "sound.json").write_text('{"bands": 20, "log": "db"}')
    np.save(folder / "frames.npy", np.ones((4, 3), np.float32))
    soundfile.write(folder / "tone.wav", np.sin(np.arange(4000) / 5), 16_000)
    onnx.save(scaled(folder / "digits.onnx", "down.0.weight", 1.1), folder / "changed.onnx")
    onnx.save(scaled(folder / "odd.onnx", "nothing", np.nan), folder / "odd.onnx")
    onnx.save(scaled(folder / "image.onnx", "w", np.nan), folder / "broken.onnx")
    (folder / "empty.toml").touch()
    pixels = np.load(folder / "digits.npz")["digits"]
    for name, data, options in (
        ("digits", pixels, {}),
        ("halved", np.zeros_like(pixels), {"select": ["op:Conv", "op:Gemm"]}),
        ("norms", pixels * 9, {"select": "op:BatchNormalization", "at": "pre"}),
    ):
        onnxscope.stats(folder / "digits.onnx", data, **options).profile.save(folder / f"{name}.json")
    write_python(folder / "changed_python", {"off": {"output": 2.0}})
    trained().save(str(folder / "tokenizer.json"))
    (folder / "recorded.onnx").write_bytes((folder / "image.onnx").read_bytes())
    told = ["-i", str(folder / "images" / "photo.jpg"), "--preprocess", str(folder / "recipe.json"), "-q"]
    assert run(["recipe", str(folder / "recorded.onnx"), *told]) == 0
    for model in ("digits.onnx", "nan.onnx", "image.onnx"):
        data = "digits.npz" if model == "digits.onnx" else "random"
        assert run(["snapshot", str(folder / model), "-i", source(folder, data), "-o", baseline(folder, model)]) == 0
    return folder


def source(folder, data):
    return data if data.startswith("random") else str(folder / data)


def baseline(folder, model):
    return str(folder / f"{model}.baseline.json")


@pytest.mark.parametrize(
    ("command", "code"),
    [
        ("inspect digits.onnx", 0),
        ("inspect tokens.onnx --select op:Gather", 0),
        ("inspect digits.onnx --time --repeats 1 -i random", 0),
        ("inspect unreachable.onnx", 0),
        ("inspect odd.onnx", 0),
        ("inspect noisy.onnx", 0),
        ("stats noisy.onnx -i random -o profile.json", 0),
        ("snapshot noisy.onnx -i random -o snapshot.json", 0),
        ("report noisy.onnx -i random -o report.html", 0),
        ("diff noisy.onnx image.onnx --weights-only", 1),
        ("weights digits_deployed.onnx -o weights", 0),
        ("weights digits_qdq.onnx", 0),
        ("weights odd.onnx --bins 3", 0),
        ("weights nan.onnx", 0),
        ("features digits.onnx -i digits.npz -o features --verify --arrays", 0),
        ("features nan.onnx -i random -o features --select value:*", 0),
        ("features infinite.onnx -i random:7 -o features --select value:*", 0),
        ("features empty.onnx -i random -o features --select value:*", 0),
        ("features scalar.onnx -i random -o features --select value:*", 0),
        ("features tokens.onnx -i random -o features --at pre", 0),
        ("features unreachable.onnx -i random -o features --select value:*", 0),
        ("features two.onnx -i random -o features --select value:*", 0),
        ("features image.onnx -i images/photo.jpg -o features --preprocess recipe.json", 0),
        ("features sound.onnx -i tone.wav -o features --preprocess sound.json", 0),
        ("stats sound.onnx -i tone.wav -o profile.json --preprocess kaldi", 0),
        ("features stateful.onnx -i frames.npy -o features", 0),
        ("stats stateful.onnx -i frames.npy -o profile.json --step 2", 0),
        ("snapshot stateful.onnx -i frames.npy -o snapshot.json", 0),
        ("snapshot sound.onnx -i tone.wav -o snapshot.json --preprocess sound.json", 0),
        ("stats digits.onnx -i digits.npz -o profile.json", 0),
        ("stats digits.onnx -i digits.npz -o profile.json --exact --limit 1 --select value:*", 0),
        ("stats nan.onnx -i random -o profile.json --select value:*", 0),
        ("stats infinite.onnx -i random -o profile.json --select value:* --limit 3", 0),
        ("stats empty.onnx -i random -o profile.json --select value:*", 0),
        ("stats scalar.onnx -i random -o profile.json --select value:*", 0),
        ("stats tokens.onnx -i random -o profile.json", 0),
        ("stats tokens.onnx -i random -o profile.json --by token", 0),
        ("stats tokens.onnx -i random -o profile.json --by position", 0),
        ("stats masked.onnx -i text:x -i text:xyz -o profile.json --tokenizer tokenizer.json", 0),
        ("features masked.onnx -i text:x -i text:xyz -o features", 0),
        ("snapshot masked.onnx -i text:x -i text:xyz --mask none -o snapshot.json", 0),
        ("report masked.onnx -i text:x -i text:xyz -o report.html", 0),
        ("stats unreachable.onnx -i random -o profile.json --select value:*", 0),
        ("stats image.onnx -i images -o profile.json --preprocess half --on-error skip", 0),
        ("diff digits.onnx digits.onnx -i digits.npz", 0),
        ("diff digits.onnx digits_qdq.onnx -i digits.npz --rtol 1e-3", 1),
        ("diff digits.onnx changed.onnx -i digits.npz --mend mended.onnx", 1),
        ("diff digits.onnx digits_deployed.onnx", 0),
        ("diff digits.onnx digits_deployed.onnx -i digits.npz --time --repeats 1", 0),
        ("diff digits.onnx changed.onnx --weights-only", 1),
        ("diff digits.safetensors digits_qdq.onnx", 0),
        ("weights digits.safetensors", 0),
        ("diff tokens.onnx image.onnx", 1),
        ("diff image.onnx broken.onnx -i images/photo.jpg --preprocess recipe.json", 1),
        ("diff nan.onnx nan.onnx -i random", 0),
        ("snapshot digits.onnx -o snapshot.json", 0),
        ("snapshot digits_qdq.onnx -i digits.npz -o snapshot.json", 0),
        ("snapshot tokens.onnx -i random -o snapshot.json", 0),
        ("snapshot two.onnx -i random -o snapshot.json", 0),
        ("snapshot image.onnx -i images/photo.jpg --preprocess recipe.json -o snapshot.json", 0),
        ("check digits.onnx --config empty.toml --baseline digits.onnx.baseline.json -i digits.npz", 0),
        ("check digits.onnx --baseline digits.onnx.baseline.json -i digits.npz --profile halved.json", 1),
        ("check changed.onnx --config empty.toml --baseline digits.onnx.baseline.json -i digits.npz", 1),
        ("check digits_qdq.onnx --config empty.toml --baseline digits.onnx.baseline.json", 1),
        ("check nan.onnx --config empty.toml --baseline nan.onnx.baseline.json -i random", 0),
        ("check broken.onnx --config empty.toml --baseline image.onnx.baseline.json -i random", 1),
        ("check tokens.onnx --config empty.toml --baseline image.onnx.baseline.json", 1),
        ("report digits.onnx -i digits.npz -o report.html", 0),
        ("report nan.onnx -i random -o report.html --select value:*", 0),
        ("report unreachable.onnx -i random -o report.html --select value:*", 0),
        ("report image.onnx -o report.html --against broken.onnx", 0),
        ("report odd.onnx -o report.html", 0),
        ("recipe image.onnx -i images/photo.jpg --preprocess recipe.json --batch-axis x=0 -o image.json", 0),
        ("recipe two.onnx -i random --samples 2 -o other.json", 0),
        ("stats recorded.onnx -i images/photo.jpg -o profile.json", 0),
        ("features image.onnx -i random:3 -o features", 0),
        ("extract digits.onnx --select block -i digits.npz -o part", 0),
        ("extract tokens.onnx --select op:MatMul -o part", 0),
        ("extract unreachable.onnx --to y -i random -o part", 0),
        ("extract noisy.onnx --to y -i random -o part", 0),
        ("extract empty.onnx --from h -i random -o part", 0),
        ("extract odd.onnx -i random --shrink -o part", 0),
        ("sensitivity digits.onnx -i digits.npz --limit 4 --as int8,float16", 0),
        ("sensitivity digits.onnx -i digits.npz --limit 4 --of both --target 35dB", 0),
        ("sensitivity tokens.onnx -i random", 0),
        ("sensitivity digits.onnx digits_qdq.onnx -i digits.npz --limit 4", 0),
        ("drift digits.json halved.json", 1),
        ("drift digits.json digits.json", 0),
        ("drift digits.json digits.json --threshold 0.1", 0),
        ("drift digits.onnx norms.json", 1),
        (f"bisect digits.onnx -i digits.npz --python {sys.executable}", 0),
        ("bisect digits.onnx -i digits.npz --limit 2 --against-python ./changed_python", 1),
        ("doctor", 0),
        ("doctor image.onnx -i images/photo.jpg", 0),
        ("doctor normalized.onnx -i images/photo.jpg --preprocess half", 0),
    ],
)
def test_what_commands_print_and_write(workplace, monkeypatch, capsys, command, code):
    monkeypatch.chdir(workplace)
    assert run([*command.split(), "--format", "json", "-q"]) == code, capsys.readouterr().err
    printed = conform(strict(capsys.readouterr().out))
    names = {"snapshot": "baseline", "bisect": "bisection"}
    kind = "preparation" if command.startswith("doctor ") else command.split()[0]
    assert printed["schema"] == f"onnxscope.{names.get(kind, kind)}/1"
    written = {"weights": "weights/weights.json", "features": "features/features.json"}
    written |= {"stats": "profile.json", "snapshot": "snapshot.json", "extract": "part/extract.json"}
    name = written.get(command.split()[0])
    if name is not None and "-o" in command:
        conform(strict(Path(name).read_text(encoding="utf-8")))


def test_what_a_check_of_several_models_prints(workplace, monkeypatch, tmp_path, capsys):
    monkeypatch.chdir(tmp_path)
    for name in ("digits", "changed", "new"):
        Path(f"{name}.onnx").write_bytes((workplace / f"{name.replace('new', 'digits')}.onnx").read_bytes())
        if name != "new":
            Path(f"{name}.onnxscope.json").write_bytes(Path(baseline(workplace, "digits.onnx")).read_bytes())
    assert run(["check", "digits.onnx", "changed.onnx", "new.onnx", "--format", "json", "-q"]) == 2
    record = conform(strict(capsys.readouterr().out))
    assert [len(record[key]) for key in ("checks", "errors")] == [2, 1]
    assert record["checks"][1]["findings"]


def test_the_edges_are_there(workplace, monkeypatch, capsys):
    """Otherwise the schemas would be held to nothing but plain cases."""
    monkeypatch.chdir(workplace)

    def printed(command):
        run([*command.split(), "--format", "json", "-q"])
        return json.loads(capsys.readouterr().out)

    taps = {tap["name"]: tap for tap in printed("features nan.onnx -i random -o features --select value:*")["taps"]}
    assert taps["h"]["mean"] is None
    assert taps["h"]["nan_count"] == 32
    empty = printed("features empty.onnx -i random -o features --select value:*")["taps"][-1]
    assert (empty["shape"], empty["picture"]) == ([0, 3], None)
    assert printed("features scalar.onnx -i random -o features --select value:y")["taps"][0]["channel_axis"] is None
    assert printed("features unreachable.onnx -i random -o features --select value:*")["unreachable"]
    assert isinstance(
        printed("features image.onnx -i images/photo.jpg -o f --preprocess recipe.json")["input"]["preset"], dict
    )
    assert printed("stats image.onnx -i images -o p.json --preprocess half --on-error skip")["input"]["skipped"]
    assert printed("stats unreachable.onnx -i random -o p.json --select value:*")["unreachable"]
    rows = printed("weights odd.onnx")["weights"]
    assert {row["count"] for row in rows if row["histogram"] is None} == {0, 1}
    assert printed("diff tokens.onnx image.onnx")["unaligned"]["a"]
    (row,) = printed("diff image.onnx broken.onnx -i images/photo.jpg --preprocess recipe.json")["layers"]
    assert row["mismatched_count"] > 0


def test_what_conversions_print(workplace, monkeypatch, capsys):
    pytest.importorskip("torch")
    monkeypatch.chdir(workplace)
    source = f"{FIXTURES / 'digits_network.py'}:DigitsNetwork"
    assert run(["convert", "torch", source, "-o", "c.onnx", "--input-shape", "1,1,8,8", "--format", "json", "-q"]) == 0
    conform(strict(capsys.readouterr().out))


def test_what_a_live_comparison_returns(workplace):
    torch = pytest.importorskip("torch")
    import onnxscope_torch

    network = torch.nn.Sequential(torch.nn.Conv2d(3, 2, 3), torch.nn.ReLU())
    record = onnxscope_torch.verify(network, workplace / "image.onnx", torch.zeros(1, 3, 8, 8))
    assert conform(record.to_dict())["unaligned"]["a"]


@pytest.mark.parametrize("method", ["eigen", "score"])
def test_what_a_class_activation_map_returns(workplace, method):
    found = onnxscope.class_activation(workplace / "digits.onnx", workplace / "digits.npz", method=method)
    assert conform(found.to_dict())["method"] == method


def test_what_the_demonstration_prints(monkeypatch, tmp_path, capsys):
    monkeypatch.setattr("onnxscope.cli.demo._NETWORKS", ())
    assert run(["demo", "-o", str(tmp_path), "--format", "json", "-q"]) == 0
    assert conform(strict(capsys.readouterr().out))["models"]
    conform(Tour("nowhere", ()).to_dict())


@pytest.mark.parametrize("name", sorted(SCHEMAS))
def test_a_schema_is_valid_and_explains_every_key(name):
    schema = SCHEMAS[name]
    Draft202012Validator.check_schema(schema)
    assert schema["$schema"] == "https://json-schema.org/draft/2020-12/schema"
    assert schema["$id"] == f"urn:onnxscope:{name}:1"
    assert schema["properties"]["schema"]["const"] == f"onnxscope.{name}/1"
    for part in (schema, *schema.get("$defs", {}).values()):
        assert part["title"]
        assert part["description"]
        assert part["additionalProperties"] is False
        assert set(part["required"]) <= set(part["properties"])
        for key, property_ in part["properties"].items():
            assert property_["description"], f"{part['title']}: {key}"


def test_what_several_schemas_define_is_the_same_in_all():
    first = {}
    for name, schema in SCHEMAS.items():
        for key, part in schema.get("$defs", {}).items():
            if key in ("model", "spec", "recipe", "input", "dataset", "fed", "unreachable", "channels", "sound_recipe"):
                assert first.setdefault(key, part) == part, f"{key} in {name}"
    assert len(first) == 9
    assert SCHEMAS["checks"]["$defs"]["finding"] == SCHEMAS["check"]["$defs"]["finding"]


def test_every_record_that_the_code_makes_has_a_schema():
    made = {
        name
        for path in (ROOT / "onnxscope").rglob("*.py")
        for name in re.findall(r'"onnxscope\.(\w+)/1"', path.read_text(encoding="utf-8"))
    }
    assert made == set(SCHEMAS)


@pytest.mark.parametrize(
    "command",
    [
        "inspect digits.onnx",
        "recipe image.onnx -i images/photo.jpg --preprocess recipe.json -o image.json",
        "weights digits.onnx",
        "features digits.onnx -i digits.npz -o features --verify",
        "stats digits.onnx -i digits.npz -o profile.json",
        "diff digits.onnx digits_qdq.onnx -i digits.npz",
        "extract digits.onnx --select block -i digits.npz -o part",
        "sensitivity digits.onnx -i digits.npz --limit 2 --of activations --target 60dB",
        "drift digits.json halved.json",
        "bisect digits.onnx -i digits.npz --limit 2 --against-python ./changed_python",
        "report image.onnx -i random -o report.html",
        "snapshot digits.onnx -i digits.npz -o snapshot.json",
        "check changed.onnx --config empty.toml --baseline digits.onnx.baseline.json -i digits.npz",
    ],
)
def test_a_damaged_record_is_refused(workplace, monkeypatch, capsys, command):
    """Take away each key, add one, and put something of another type in its place."""
    monkeypatch.chdir(workplace)
    run([*command.split(), "--format", "json", "-q"])
    records = [json.loads(capsys.readouterr().out)]
    if "profile.json" in command:
        records.append(json.loads(Path("profile.json").read_text(encoding="utf-8")))
    damages = 0
    for whole in records:
        judge = validator(whole)
        root = judge.schema
        for place, (schema, _) in enumerate(objects(root, whole, root)):
            for key in schema["required"]:
                for damage in ("remove", "retype", "add"):
                    damaged = copy.deepcopy(whole)
                    _, node = list(objects(root, damaged, root))[place]
                    if damage == "remove":
                        del node[key]
                    elif damage == "add":
                        node[key + "_"] = None
                    elif set(schema["properties"][key]) == {"description"}:
                        continue  # it may be anything
                    else:
                        node[key] = [{"no": ["such", "thing"]}]
                    assert not judge.is_valid(damaged), f"{damage} {key}"
                    damages += 1
    assert damages > 15
