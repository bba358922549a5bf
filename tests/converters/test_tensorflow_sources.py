"""Sources: factories, saved models, and everything that is refused without running any of it."""

from __future__ import annotations

import json
import os
import zipfile
from pathlib import Path

import h5py
import numpy as np
import pytest

pytest.importorskip("tensorflow")
pytest.importorskip("tf2onnx")

from converters.tensorflow_helpers import HERE, convert, keras, layer_of, make, quiet, random, tf

from converters import tensorflow_helpers as helpers
from onnxscope.errors import ConversionError
from onnxscope_tensorflow.configs import check_config

FACTORY_HINT = "name a factory that builds the model, `file.py:factory`, and pass its weights as `--weights`"


def _refusal(source, folder, **options):
    before = _files(folder)
    with pytest.raises(ConversionError) as caught:
        convert(str(source), folder, **options)
    assert "\n" not in str(caught.value)
    assert _files(folder) == before
    return caught.value


def _files(folder):
    """What is there, but for what Python may keep of a module that it has compiled."""
    return sorted(path for path in folder.iterdir() if path.name != "__pycache__")


@pytest.mark.parametrize("suffix", ["keras", "h5"])
def test_a_saved_model_is_that_model(tmp_path, suffix):
    model, image = make(helpers.residual), random(2, 12, 12, 3)
    expected = quiet(model, image).numpy()
    path = tmp_path / f"net.{suffix}"
    quiet(model.save, path)
    converted = convert(str(path), tmp_path)
    np.testing.assert_allclose(converted.run(image)[0], expected, atol=1e-5)
    assert converted.provenance.source == path.name
    for variable in model.weights:
        assert converted.initializers[variable.path].tobytes() == variable.numpy().tobytes()
    assert "Conv" in converted.operators("conv3")


@pytest.mark.parametrize("mode", ["faithful", "deployed"])
def test_a_savedmodel_is_that_model(tmp_path, mode):
    model, image = make(helpers.residual), random(2, 12, 12, 3)
    expected = quiet(model, image).numpy()
    quiet(model.export, tmp_path / "exported", verbose=False)
    converted = convert(str(tmp_path / "exported"), tmp_path, mode=mode)
    np.testing.assert_allclose(converted.run(image)[0], expected, atol=1e-5)
    assert converted.shapes == {"image": ["batch", 12, 12, 3], "output_0": ["batch", 5]}
    assert converted.provenance.source == "exported"
    assert str(tmp_path).encode() not in converted.path.read_bytes()
    for variable in model.weights:
        record = converted.records[variable.path]
        if mode == "faithful":
            assert converted.initializers[record.initializer].tobytes() == variable.numpy().tobytes()
            assert record.initializer == variable.path
        elif record.initializer and not record.folded and variable.ndim > 1:
            stored = converted.initializers[record.initializer]
            order = record.permutation or range(variable.ndim)
            assert np.array_equal(stored, variable.numpy().transpose(order))
    assert [op for op in converted.operators("conv3") if op in ("Conv", "Relu")] == ["Conv", "Relu"]
    assert converted.operators("out") == ["Relu"]
    if mode == "faithful":
        assert None not in {layer_of(node) for node in converted.model.graph.node}
        assert "Pad" in converted.operators("pad")
    else:
        assert converted.records["bn1/gamma"].reason == "folded into conv1/kernel"


def test_a_savedmodels_nested_layers(tmp_path):
    model, image = make(helpers.shared), random(2, 6, 6, 2)
    expected = quiet(model, image).numpy()
    quiet(model.export, tmp_path / "exported", verbose=False)
    converted = convert(str(tmp_path / "exported"), tmp_path)
    np.testing.assert_allclose(converted.run(image)[0], expected, atol=1e-5)
    convolutions = [layer_of(node) for node in converted.model.graph.node if node.op_type == "Conv"]
    assert convolutions == ["twice", "twice", "features/conv2d"]


def test_a_savedmodel_of_plain_tensorflow(tmp_path):
    class Affine(tf.Module):
        def __init__(self):
            super().__init__()
            self.matrix = tf.Variable(random(3, 2), name="affine/matrix")

        @tf.function(input_signature=[tf.TensorSpec((None, 3), tf.float32, "x")])
        def serve(self, x):
            return {"y": x @ self.matrix}

    module = Affine()
    quiet(tf.saved_model.save, module, str(tmp_path / "plain"), signatures=module.serve)
    converted = convert(str(tmp_path / "plain"), tmp_path)
    x = random(4, 3)
    np.testing.assert_allclose(converted.run(x)[0], x @ random(3, 2), atol=1e-6)
    assert np.array_equal(converted.initializers["affine/matrix"], random(3, 2))
    assert [layer_of(n) for n in converted.model.graph.node if n.op_type == "MatMul"] == ["affine"]
    assert converted.shapes == {"x": ["batch", 3], "y": ["batch", 2]}


def _lambda_model(marker):
    def call(x):
        open(marker, "w").close()
        return x * 2

    image = keras.Input((3,), name="x")
    inner = keras.Sequential([keras.Input((3,)), keras.layers.Lambda(lambda x: call(x), name="trick")], name="inner")
    return keras.Model(image, inner(keras.layers.Dense(3)(image)))


@pytest.mark.parametrize("suffix", ["keras", "h5"])
def test_a_lambda_layer_is_refused_and_not_run(tmp_path, suffix):
    marker = tmp_path / "marker"
    path = tmp_path / f"net.{suffix}"
    quiet(_lambda_model(marker).save, path)
    marker.unlink()  # building the model has run it
    error = _refusal(path, tmp_path)
    assert str(error) == f"the Lambda layer 'trick' holds Python code, which is not run: {path}"
    assert error.hint == FACTORY_HINT
    assert not marker.exists()


def _edit(path, change):
    """Rewrite a `.keras` file's configuration."""
    with zipfile.ZipFile(path) as archive:
        members = {name: archive.read(name) for name in archive.namelist()}
    config = json.loads(members["config.json"])
    change(config)
    members["config.json"] = json.dumps(config).encode()
    with zipfile.ZipFile(path, "w") as archive:
        for name, content in members.items():
            archive.writestr(name, content)


@pytest.mark.parametrize(
    ("entry", "message"),
    [
        ({"class_name": "TFSMLayer", "config": {"filepath": "x"}}, "the TFSMLayer 'fc' loads a program from elsewhere"),
        ({"class_name": "system", "module": "os", "config": {}}, "'fc' comes from 'os', not from Keras's layers"),
        (
            {"class_name": "function", "module": "keras.utils", "config": "get_file"},
            "'fc' comes from 'keras.utils', not from Keras's layers",
        ),
        (
            {"class_name": "Odd", "module": None, "registered_name": "mine>Odd", "config": {}},
            "'fc' is the user's own class 'mine>Odd'",
        ),
        (
            {"class_name": "StringLookup", "config": {"vocabulary": "/etc/hostname"}},
            "the layer 'fc' reads a vocabulary from another file",
        ),
    ],
)
def test_a_configuration_that_reaches_outside_is_refused(tmp_path, entry, message):
    path = tmp_path / "net.keras"
    quiet(make(helpers.embedding).save, path)

    def change(config):
        dense = next(layer for layer in config["config"]["layers"] if layer["config"]["name"] == "fc")
        dense["config"]["activation"] = entry

    _edit(path, change)
    error = _refusal(path, tmp_path)
    assert str(error) == f"{message}: {path}"
    assert error.hint == FACTORY_HINT


def test_what_keras_itself_saves_is_accepted():
    for factory in (helpers.residual, helpers.sequential, helpers.shared, helpers.tokens, helpers.chain):
        model = make(factory)
        config = {"class_name": type(model).__name__, "module": "keras", "config": model.get_config()}
        check_config(keras.saving.serialize_keras_object(model), Path("net.keras"))
        check_config(config, Path("net.keras"))


def test_a_member_that_would_leave_the_folder_is_refused(tmp_path):
    path = tmp_path / "net.keras"
    quiet(make(helpers.embedding).save, path)
    with zipfile.ZipFile(path, "a") as archive:
        archive.writestr("assets/../../evil", b"x")
    expected = f"it holds a file that would leave its folder, 'assets/../../evil': {path}"
    assert str(_refusal(path, tmp_path)) == expected


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("net.keras", b"just text", "not a .keras file"),
        ("net.h5", b"just text", "not an HDF5 file"),
        ("empty/saved_model.pb", b"", "its saved_model.pb holds no graph"),
        ("text/saved_model.pb", b"just text", "its saved_model.pb cannot be read"),
        ("other/readme.txt", b"", "not a SavedModel (it has no saved_model.pb)"),
    ],
)
def test_files_that_are_no_models(tmp_path, name, content, message):
    path = tmp_path / name
    path.parent.mkdir(exist_ok=True)
    path.write_bytes(content)
    source = path.parent if "/" in name else path
    assert str(_refusal(source, tmp_path)) == f"{message}: {source}"


def test_weights_alone_are_no_model(tmp_path):
    path = tmp_path / "w.h5"
    with h5py.File(path, "w") as file:
        file.attrs["layer_names"] = [b"fc"]
    error = _refusal(path, tmp_path)
    assert str(error) == f"the file holds weights, but no model: {path}"
    assert error.hint == FACTORY_HINT


def _save_function(folder, function, spec=None):
    module = tf.Module()
    module.weight = tf.Variable([1.0, 2.0])
    module.serve = tf.function(function, input_signature=[spec or tf.TensorSpec((None,), tf.float32, "x")])
    quiet(tf.saved_model.save, module, str(folder), signatures=module.serve)


@pytest.mark.parametrize("kind", ["EagerPyFunc", "ReadFile", "WriteFile", "PrintV2"])
def test_a_savedmodel_that_does_more_than_compute_is_refused(tmp_path, kind):
    marker = tmp_path / "marker"

    def call(x):
        if kind == "EagerPyFunc":
            return {"y": tf.py_function(lambda v: (marker.touch(), v)[1], [x], tf.float32)}
        if kind == "ReadFile":
            return {"y": x + tf.cast(tf.strings.length(tf.io.read_file("/etc/hostname")), tf.float32)}
        with tf.control_dependencies(
            [
                tf.io.write_file(str(marker), "x")
                if kind == "WriteFile"
                else tf.print(x, output_stream=f"file://{marker}")
            ]
        ):
            return {"y": tf.identity(x)}

    _save_function(tmp_path / "odd", call)
    error = _refusal(tmp_path / "odd", tmp_path)
    assert str(error).startswith(f"the operation {kind} (")
    assert str(error).endswith(f") runs code or touches files, so the model is not loaded: {tmp_path / 'odd'}")
    assert not marker.exists()


def test_only_the_saver_may_call_its_own_operations(tmp_path):
    from tensorflow.core.protobuf import saved_model_pb2

    _save_function(tmp_path / "odd", lambda x: {"y": x * 2})
    path = tmp_path / "odd" / "saved_model.pb"
    content = saved_model_pb2.SavedModel()
    content.ParseFromString(path.read_bytes())
    meta = content.meta_graphs[0]
    saver = next(f.signature.name for f in meta.graph_def.library.function if "traced_save" in f.signature.name)
    target = next(f for f in meta.graph_def.library.function if "traced" not in f.signature.name)
    node = target.node_def.add()
    node.name, node.op = "again", "StatefulPartitionedCall"
    node.attr["f"].func.name = saver
    path.write_bytes(content.SerializeToString())
    assert str(_refusal(tmp_path / "odd", tmp_path)) == f"its saver is called by 'again': {tmp_path / 'odd'}"

    target.node_def.remove(node)
    meta.object_graph_def.concrete_functions[saver].SetInParent()
    path.write_bytes(content.SerializeToString())
    assert str(_refusal(tmp_path / "odd", tmp_path)) == f"its saver can be called as '{saver}': {tmp_path / 'odd'}"


def test_a_savedmodel_of_tensorflow_1_is_refused(tmp_path):
    from tensorflow.core.protobuf import saved_model_pb2

    content = saved_model_pb2.SavedModel()
    content.meta_graphs.add()
    (tmp_path / "old").mkdir()
    (tmp_path / "old" / "saved_model.pb").write_bytes(content.SerializeToString())
    error = _refusal(tmp_path / "old", tmp_path)
    assert str(error) == f"a SavedModel of TensorFlow 1: {tmp_path / 'old'}"
    assert error.hint == "load it in TensorFlow 2 and save it again"


def test_a_savedmodel_without_a_usable_signature(tmp_path):
    module = tf.Module()
    spec = tf.TensorSpec((None,), tf.float32)
    signatures = {name: tf.function(lambda x: {"y": x}).get_concrete_function(spec) for name in ("one", "two")}
    quiet(tf.saved_model.save, module, str(tmp_path / "odd"), signatures=signatures)
    error = _refusal(tmp_path / "odd", tmp_path)
    assert str(error) == f"no signature named 'serving_default': {tmp_path / 'odd'}"
    assert error.hint == "it has one, two; `model.export(folder)` writes one"


@pytest.mark.parametrize(
    ("options", "what"), [({"weights": "w.h5"}, "weights"), ({"arguments": {"a": 1}}, "arguments")]
)
def test_a_savedmodel_has_its_own_weights(tmp_path, options, what):
    _save_function(tmp_path / "plain", lambda x: {"y": x})
    error = _refusal(tmp_path / "plain", tmp_path, **options)
    assert str(error) == f"a SavedModel has its own {what}: {tmp_path / 'plain'}"


def test_a_saved_model_takes_no_arguments(tmp_path):
    path = tmp_path / "net.keras"
    quiet(make(helpers.embedding).save, path)
    error = _refusal(path, tmp_path, arguments={"classes": 3})
    assert str(error) == f"a saved model takes no arguments (classes): {path}"


@pytest.mark.parametrize(
    ("source", "message", "hint"),
    [
        ("vgg", "no shipped network named 'vgg': TensorFlow", "one of alexnet, alexnet-subclassed, resnet34, resnet50"),
        ("gone.keras", "no such file: gone.keras", None),
        ("gone.py:make", "no such file: gone.py", None),
        ("gone.py", "no factory named: gone.py", "name one as `gone.py:factory`"),
        (
            "no_such_module_here:make",
            "no module named 'no_such_module_here': no_such_module_here",
            "a file is named as",
        ),
        (f"{HERE}:nothing", f"no factory named 'nothing': {HERE}:nothing", "it defines Block, Converted, Pair"),
        (f"{HERE}:HERE", f"'HERE' is a str, not a factory: {HERE}:HERE", "name a function or a class"),
        (f"{HERE}:failing", f"the factory failed (ValueError: no such luck): {HERE}:failing", None),
        (f"{HERE}:number", f"the factory returned int, not a keras.Model: {HERE}:number", "return the model itself"),
    ],
)
def test_sources_that_lead_nowhere(tmp_path, source, message, hint):
    error = _refusal(source, tmp_path)
    assert str(error) == message
    assert (error.hint is None) if hint is None else str(error.hint).startswith(hint)


def test_arguments_that_the_factory_does_not_take(tmp_path):
    error = _refusal(f"{HERE}:embedding", tmp_path, arguments={"size": 3})
    assert str(error) == (f"the factory cannot be called (got an unexpected keyword argument 'size'): {HERE}:embedding")
    assert error.hint == "see `--arg NAME=VALUE`"


def test_a_broken_file_and_a_folder(tmp_path):
    (tmp_path / "net.py").write_text("import keras\nraise SystemExit('bye')\n")
    error = _refusal(f"{tmp_path}/net.py:make", tmp_path)
    assert str(error) == f"cannot import (SystemExit: bye): {tmp_path}/net.py"
    os.mkdir(tmp_path / "folder.py")
    error = _refusal(f"{tmp_path}/folder.py:make", tmp_path)
    assert str(error) == f"not a file: {tmp_path}/folder.py"


def test_a_layer_that_keras_does_not_have(tmp_path):
    path = tmp_path / "net.keras"
    quiet(make(helpers.embedding).save, path)

    def change(config):
        config["config"]["layers"][2]["class_name"] = "NoSuchLayer"

    _edit(path, change)
    error = _refusal(path, tmp_path)
    assert str(error).startswith("Keras cannot load the model (ValueError: ")
    assert str(error).endswith(f": {path}")
    assert error.hint == "name a factory that builds it, `file.py:factory`, and pass its weights as `--weights`"


def test_a_configuration_that_is_none(tmp_path, monkeypatch):
    path = tmp_path / "net.h5"
    with h5py.File(path, "w") as file:
        file.attrs["model_config"] = "{"
    assert str(_refusal(path, tmp_path)) == f"its model configuration cannot be read: {path}"
    long = tmp_path / "net.keras"
    quiet(make(helpers.embedding).save, long)
    monkeypatch.setattr("onnxscope_tensorflow.configs._MAX_CONFIG_BYTES", 10)
    assert str(_refusal(long, tmp_path)) == f"its config.json is absurdly long: {long}"


def test_a_savedmodel_without_its_variables(tmp_path):
    _save_function(tmp_path / "plain", lambda x: {"y": x})
    for file in (tmp_path / "plain" / "variables").iterdir():
        file.unlink()
    error = _refusal(tmp_path / "plain", tmp_path)
    assert str(error).startswith("TensorFlow cannot load the SavedModel (")
