"""Checkpoints: every kind loads whole, and one that does not fit changes nothing."""

from __future__ import annotations

import sys

import h5py
import numpy as np
import pytest

pytest.importorskip("tensorflow")
pytest.importorskip("tf2onnx")

from converters.tensorflow_helpers import HERE, convert, keras, make, quiet

from converters import tensorflow_helpers as helpers
from onnxscope.errors import ConversionError
from onnxscope_tensorflow.checkpoints import load_checkpoint


def _trained(classes=3):
    return helpers._train(make(helpers.chain, classes))


def _save(model, path):
    if path.name.endswith(".safetensors"):
        from safetensors.numpy import save_file

        save_file({v.path: v.numpy() for v in model.weights}, path)
    elif path.name.endswith(".weights.h5"):
        quiet(model.save_weights, path)
    else:
        quiet(model.save, path)  # a legacy model file holds weights in the legacy format
    return str(path)


def _write_legacy(model, path, rename=lambda name: name):
    """Write what Keras 2's `save_weights` wrote: names with `:0`, no model."""
    with h5py.File(path, "w") as file:
        owners = [layer for layer in model.layers if layer.weights]
        file.attrs["layer_names"] = [rename(layer.name).encode() for layer in owners]
        for layer in owners:
            group = file.create_group(rename(layer.name))
            weights = [*layer.trainable_weights, *layer.non_trainable_weights]
            group.attrs["weight_names"] = [f"{rename(layer.name)}/{w.name}:0".encode() for w in weights]
            for weight in weights:
                group[f"{rename(layer.name)}/{weight.name}:0"] = weight.numpy()
    return str(path)


def _values(model):
    return [variable.numpy() for variable in model.weights]


def _same(left, right):
    return all(np.array_equal(a, b) for a, b in zip(left, right, strict=True))


@pytest.mark.parametrize("name", ["w.weights.h5", "model.h5", "w.safetensors"])
def test_every_kind_of_checkpoint_loads_whole(tmp_path, name):
    expected = _trained()
    path = _save(expected, tmp_path / name)
    model = make(helpers.chain)
    assert not _same(_values(model), _values(expected))
    assert load_checkpoint(model, path) == []
    assert _same(_values(model), _values(expected))


def test_the_weights_of_keras_2_load_by_name_and_by_order(tmp_path):
    expected = _trained()
    model = make(helpers.chain)
    assert load_checkpoint(model, _write_legacy(expected, tmp_path / "same.h5")) == []
    assert _same(_values(model), _values(expected))
    model = make(helpers.chain)
    path = _write_legacy(expected, tmp_path / "other.h5", lambda name: f"{name}_9")
    assert load_checkpoint(model, path) == ["the layers were matched by their order, because their names differ"]
    assert _same(_values(model), _values(expected))


def test_a_trained_models_checkpoint_loads_without_its_optimizer(tmp_path):
    expected = _trained()
    expected.compile("adam", "mse", metrics=["mae"])
    quiet(expected.fit, np.ones((4, 6, 6, 2), np.float32), np.ones((4, 3), np.float32), verbose=0)
    path = _save(expected, tmp_path / "w.weights.h5")
    model = make(helpers.chain)
    load_checkpoint(model, path)
    assert _same(_values(model), _values(expected))


def test_a_subclassed_models_checkpoint(tmp_path):
    expected = make(helpers.Subclassed)
    quiet(expected, keras.Input((5, 5, 3)))
    path = _save(helpers._train(expected), tmp_path / "w.weights.h5")
    converted = convert(f"{HERE}:Subclassed", tmp_path, input_shapes=(("", (1, 5, 5, 3)),), weights=path)
    for variable in expected.weights:
        if variable.name != "idle":
            assert converted.initializers[variable.path].tobytes() == variable.numpy().tobytes()


@pytest.mark.parametrize("name", ["w.weights.h5", "model.h5", "w.safetensors"])
def test_a_wrong_shape_is_named_and_nothing_is_loaded(tmp_path, name):
    path = _save(_trained(classes=5), tmp_path / name)
    model = make(helpers.chain)
    before = _values(model)
    with pytest.raises(ConversionError) as caught:
        load_checkpoint(model, path)
    fault = "2 wrongly shaped, first 'dense/kernel': (64, 5) in the file, (64, 3) in the model"
    assert str(caught.value) == f"the checkpoint does not fit the model ({fault}): {path}"
    assert caught.value.hint == "`--arg` sets the factory's arguments, such as num_classes"
    assert _same(_values(model), before)


def test_missing_and_unexpected_parameters_are_named(tmp_path):
    from safetensors.numpy import save_file

    state = {v.path: v.numpy() for v in _trained().weights}
    state["conv2d/weight"] = state.pop("conv2d/kernel")
    save_file(state, tmp_path / "w.safetensors")
    with pytest.raises(ConversionError) as caught:
        load_checkpoint(make(helpers.chain), str(tmp_path / "w.safetensors"))
    assert "(1 missing, first 'conv2d/kernel'; 1 unexpected, first 'conv2d/weight')" in str(caught.value)

    path = _save(_trained(), tmp_path / "w.weights.h5")
    with h5py.File(path, "a") as file:
        del file["layers/conv2d/vars/1"]
        file["layers/extra/vars/0"] = np.zeros(3)
    with pytest.raises(ConversionError) as caught:
        load_checkpoint(make(helpers.chain), path)
    assert "(1 missing, first 'conv2d/bias'; 1 unexpected, first 'layers/extra/vars/0')" in str(caught.value)


def test_another_networks_legacy_file_is_refused(tmp_path):
    path = _write_legacy(make(helpers.embedding), tmp_path / "w.h5")
    with pytest.raises(ConversionError) as caught:
        load_checkpoint(make(helpers.chain), path)
    assert "missing, first 'conv2d/bias'" in str(caught.value)
    assert "wrongly shaped, first 'conv2d/kernel': (7, 4) in the file, (3, 3, 2, 4) in the model" in str(caught.value)


@pytest.mark.parametrize(
    ("name", "content", "message", "hint"),
    [
        (
            "w.weights.h5",
            b"just text\n",
            "not a checkpoint of Keras",
            "`model.save_weights('model.weights.h5')` writes one",
        ),
        ("w.pth", b"PK\x03\x04", "not a checkpoint of Keras", "`model.save_weights('model.weights.h5')` writes one"),
        ("w.h5", b"\x89HDF\r\n\x1a\n" + b"\0" * 40, "cannot read the checkpoint (OSError: ", None),
        ("w.safetensors", b"just text\n", "not a safetensors file (SafetensorError: ", None),
        ("w.h5", None, "no such checkpoint", None),
    ],
)
def test_what_is_no_checkpoint_is_said_in_one_line(tmp_path, name, content, message, hint):
    path = tmp_path / name
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(ConversionError) as caught:
        load_checkpoint(make(helpers.embedding), str(path))
    assert str(caught.value).startswith(message)
    assert str(caught.value).endswith(f": {path}")
    assert "\n" not in str(caught.value)
    assert caught.value.hint == hint


def test_a_folder_is_no_checkpoint(tmp_path):
    with pytest.raises(ConversionError, match=r"^not a file: "):
        load_checkpoint(make(helpers.embedding), str(tmp_path))


def test_a_checkpoint_without_weights_is_refused(tmp_path):
    path = tmp_path / "w.weights.h5"
    with h5py.File(path, "w") as file:
        file.create_group("layers")
    with pytest.raises(ConversionError, match=r"^the checkpoint holds no weights: "):
        load_checkpoint(make(helpers.embedding), str(path))


@pytest.mark.parametrize("kind", ["external link", "soft link", "external storage", "virtual"])
def test_a_checkpoint_that_reaches_into_other_files_is_refused(tmp_path, kind):
    (tmp_path / "secret.bin").write_bytes(b"\1" * 400)
    path = tmp_path / "w.weights.h5"
    _save(make(helpers.embedding), path)
    with h5py.File(path, "a") as file:
        group = file["layers/dense/vars"]
        del group["0"]
        if kind == "external link":
            group["0"] = h5py.ExternalLink(str(tmp_path / "other.h5"), "/x")
        elif kind == "soft link":
            group["0"] = h5py.SoftLink("/layers/embedding/vars/0")
        elif kind == "external storage":
            group.create_dataset("0", (12, 2), "f4", external=[(str(tmp_path / "secret.bin"), 0, 96)])
        else:
            layout = h5py.VirtualLayout((12, 2), "f4")
            layout[:] = h5py.VirtualSource(str(tmp_path / "other.h5"), "x", (12, 2))
            group.create_virtual_dataset("0", layout)
    with pytest.raises(ConversionError) as caught:
        load_checkpoint(make(helpers.embedding), str(path))
    what = "is a link, which is not followed" if "link" in kind else "lies in another file"
    assert str(caught.value) == f"'/layers/dense/vars/0' {what}: {path}"


def test_two_variables_of_one_name_cannot_come_from_safetensors(tmp_path):
    from safetensors.numpy import save_file

    def twins():
        inner = [keras.Model(x := keras.Input((2,)), keras.layers.Dense(2, name="d")(x)) for _ in range(2)]
        outer = keras.Input((2,))
        return keras.Model(outer, inner[1](inner[0](outer)))

    save_file({"d/kernel": np.zeros((2, 2), np.float32)}, tmp_path / "w.safetensors")
    with pytest.raises(ConversionError, match=r"^two variables are called 'd/kernel', which safetensors cannot tell: "):
        load_checkpoint(make(twins), str(tmp_path / "w.safetensors"))


def test_safetensors_that_is_not_installed(tmp_path, monkeypatch):
    (tmp_path / "w.safetensors").write_bytes(b"")
    monkeypatch.setitem(sys.modules, "safetensors.numpy", None)
    with pytest.raises(ConversionError, match=r"^reading it needs safetensors, which is not installed: ") as caught:
        load_checkpoint(make(helpers.embedding), str(tmp_path / "w.safetensors"))
    assert caught.value.hint == "pip install 'onnxscope[tensorflow]'"


def test_a_layer_that_cannot_read_its_own_file(tmp_path, monkeypatch):
    path = _save(make(helpers.embedding), tmp_path / "w.weights.h5")

    def fail(layer, store):
        raise KeyError("0")

    monkeypatch.setattr(keras.layers.Dense, "load_own_variables", fail)
    with pytest.raises(ConversionError, match=r"^Keras cannot load the checkpoint \(") as caught:
        load_checkpoint(make(helpers.embedding), path)
    assert str(caught.value).endswith(f": {path}")
