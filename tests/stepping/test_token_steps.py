"""What tokens tell, step by step, makes models give what numpy computes: fixed caches, lengths, single tokens."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
from onnx import numpy_helper
from stateful_models import WEIGHTS, numpy_logits, small_tokenizer

import onnxscope
from onnxscope.runtime.session import open_session
from onnxscope.stepping.states import find_states
from onnxscope.stepping.walk import Walker

TOKENS = [3, 1, 4, 1, 5, 9, 2]
HEADER = '<ir_version: 10, opset_import: ["": 21]>'
ROOM = 3


def stored(text, **more):
    """A model of its text; what stands for a dot in a name is one again."""
    model = onnx.parser.parse_model(f"{HEADER} {text}")
    for lists in (model.graph.input, model.graph.output):
        for value in lists:
            value.name = value.name.replace("__", ".")
    for node in model.graph.node:
        for names in (node.input, node.output):
            names[:] = [name.replace("__", ".") for name in names]
    for name, weight in {**WEIGHTS, **more}.items():
        model.graph.initializer.append(numpy_helper.from_array(weight, name))
    return model


def walked(model, tokens, beside=None, **options):
    """What each step gives as `logits`, and what it was fed."""
    loaded = onnxscope.load_model(model)
    walk = Walker(loaded, find_states(loaded.inputs, loaded.outputs)).over_tokens(tokens, beside or {}, **options)
    session = open_session(loaded)
    return [session.run(feeds, ["logits"])["logits"] for feeds in walk.steps], walk


FIXED = f"""g (int64[b, s] input_ids, int64[b, t] attention_mask, int64[b, s] position_ids,
    float[b, 1, {ROOM}, 8] past_key_values__0__key, float[b, 1, {ROOM}, 8] past_key_values__0__value)
    => (float[b, s, 13] logits, float[b, 1, {ROOM}, 8] present__0__key, float[b, 1, {ROOM}, 8] present__0__value)
    <int64[1] head = {{1}}, int64[1] two = {{2}}, int64[1] from = {{-{ROOM}}}, int64[1] to = {{999}},
    int64[2] seen = {{1, 2}}, float low = {{-10000.0}}, float none = {{0.0}}, float scale = {{0.35355338}},
    int64 no = {{0}}> {{
    e = Gather (table, input_ids)  p = Gather (places, position_ids)  h = Add (e, p)
    q0 = MatMul (h, wq)  q = Unsqueeze (q0, head)
    k0 = MatMul (h, wk)  k = Unsqueeze (k0, head)  v0 = MatMul (h, wv)  v = Unsqueeze (v0, head)
    keys = Concat <axis = 2> (past_key_values__0__key, k)  values = Concat <axis = 2> (past_key_values__0__value, v)
    present__0__key = Slice (keys, from, to, two)  present__0__value = Slice (values, from, to, two)
    kt = Transpose <perm = [0, 1, 3, 2]> (keys)  s0 = MatMul (q, kt)  s1 = Mul (s0, scale)
    unseen0 = Equal (attention_mask, no)  unseen = Unsqueeze (unseen0, seen)  bias = Where (unseen, low, none)
    s2 = Add (s1, bias)  a = Softmax <axis = -1> (s2)
    o0 = MatMul (a, values)  o1 = Squeeze (o0, head)  o2 = MatMul (o1, wo)  o = Add (h, o2)
    logits = MatMul (o, vocabulary) }}"""


def windowed(tokens, room):
    """Logits of each token that sees so many before it, by numpy in float64."""
    held = {name: weight.astype(np.float64) for name, weight in WEIGHTS.items()}
    h = held["table"][tokens] + held["places"][: len(tokens)]
    rows = []
    for place in range(len(tokens)):
        seen = h[max(place - room, 0) : place + 1]
        scores = (h[place] @ held["wq"]) @ (seen @ held["wk"]).T / 8**0.5
        shares = np.exp(scores - scores.max())
        shares /= shares.sum()
        rows.append((h[place] + shares @ (seen @ held["wv"]) @ held["wo"]) @ held["vocabulary"])
    return np.array(rows)


def test_a_cache_of_a_fixed_size_is_masked_where_it_holds_nothing():
    given, walk = walked(stored(FIXED), TOKENS)
    assert np.abs(np.concatenate(given)[:, 0] - windowed(TOKENS, ROOM)).max() < 1e-4
    marks = [feeds["attention_mask"][0].tolist() for feeds in walk.steps]
    assert marks[:3] == [[0, 0, 0, 1], [0, 0, 1, 1], [0, 1, 1, 1]]
    assert marks[3:] == [[1, 1, 1, 1]] * 4  # what is forgotten has no place any more


def test_a_fixed_cache_is_stepped_from_the_command_line_without_being_asked(tmp_path):
    onnx.save(stored(FIXED), tmp_path / "fixed.onnx")
    maps = onnxscope.features(tmp_path / "fixed.onnx", np.array([TOKENS]), select="value:logits")
    assert np.abs(maps[0].data[:, 0] - windowed(TOKENS, ROOM)).max() < 1e-4
    assert maps.input["samples"] == len(TOKENS)


def test_the_keys_of_a_fixed_cache_have_names(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    onnx.save(stored(FIXED), "fixed.onnx")
    small_tokenizer().save("tokenizer.json")
    text = "two four nine ten"
    words = text.split()
    for step in (0, 3):
        shown = onnxscope.features("fixed.onnx", f"text:{text}", select="value:a", sample=step)[0]
        assert shown.data.shape == (4, 1, 1, ROOM + 1)
        expected = ["", "", "", *words[: step + 1]][-ROOM - 1 :]
        assert shown._names(1) == tuple(expected)
        assert (shown.data[step, 0, 0] > 0).tolist() == [word != "" for word in expected]
    alone = onnxscope.features("fixed.onnx", f"text:{text}", select="value:a", step=2)[0]
    assert alone._names(1) == ("", *words[:3])
    assert alone.caption().endswith(f": {words[2]}")
    assert alone.image().width > 0
    two = onnxscope.features("fixed.onnx", [f"text:{text}", "text:ten two"], select="value:a", sample=5)[0]
    assert two._names(1) == ("", "", "ten", "two")
    single = onnxscope.features("fixed.onnx", "text:two", select="value:a")[0]
    assert single._names(1) == ()  # nobody has seen it move


COUNTED = """g (int64[b, s] input_ids, {past} past_sequence_length, {total} total_sequence_length,
    float[b, 1, past, 8] past_key_values__0__key, float[b, 1, past, 8] past_key_values__0__value)
    => (float[b, s, 13] logits, float[b, 1, all, 8] present__0__key, float[b, 1, all, 8] present__0__value)
    <int64[1] head = {{1}}, int64[1] last = {{-1}}, int64 no = {{0}}, int64 one = {{1}}, int64[0] alone = {{}},
    float low = {{-10000.0}}, float none = {{0.0}}, float scale = {{0.35355338}}> {{
    before0 = Cast <to = 7> (past_sequence_length)  before = Reshape (before0, alone)
    count0 = Cast <to = 7> (total_sequence_length)  count = Reshape (count0, alone)
    at = Range (before, count, one)  keys0 = Range (no, count, one)
    e = Gather (table, input_ids)  p = Gather (places, at)  h = Add (e, p)
    q0 = MatMul (h, wq)  q = Unsqueeze (q0, head)
    k0 = MatMul (h, wk)  k = Unsqueeze (k0, head)  v0 = MatMul (h, wv)  v = Unsqueeze (v0, head)
    present__0__key = Concat <axis = 2> (past_key_values__0__key, k)
    present__0__value = Concat <axis = 2> (past_key_values__0__value, v)
    kt = Transpose <perm = [0, 1, 3, 2]> (present__0__key)  s0 = MatMul (q, kt)  s1 = Mul (s0, scale)
    row = Unsqueeze (at, last)  later = Greater (keys0, row)  bias = Where (later, low, none)
    s2 = Add (s1, bias)  a = Softmax <axis = -1> (s2)
    o0 = MatMul (a, present__0__value)  o1 = Squeeze (o0, head)  o2 = MatMul (o1, wo)  o = Add (h, o2)
    logits = MatMul (o, vocabulary) }}"""


@pytest.mark.parametrize(("past", "total"), [("int64", "int64"), ("int32[b]", "int32"), ("int64[b, 1]", "int64[b]")])
def test_lengths_place_tokens_and_count_keys(past, total):
    expected = numpy_logits(TOKENS)[0]
    model = stored(COUNTED.format(past=past, total=total))
    given, walk = walked(model, TOKENS)
    assert np.abs(np.concatenate(given, 1)[0] - expected).max() < 1e-4
    assert walk.apart[0] < 1e-4  # a run over all tokens counts them too
    at_once = onnxscope.features(model, np.array([TOKENS]), select="value:logits")[0].data
    assert np.abs(at_once[0] - expected).max() < 1e-4
    given, walk = walked(model, TOKENS[:4], generate=4)
    followed = numpy_logits(list(walk.tokens)[:-1])[0]
    assert [step.shape[1] for step in given] == [4, 1, 1, 1]
    assert np.abs(np.concatenate(given, 1)[0] - followed).max() < 1e-4
    assert list(walk.tokens[4:]) == followed[3:].argmax(-1).tolist()


def test_positions_and_lengths_come_after_what_the_first_states_hold():
    _, keys, values = numpy_logits(TOKENS[:4])
    first = {
        f"past_key_values.0.{part}": array[None, None].astype(np.float32)
        for part, array in (("key", keys), ("value", values))
    }
    given, walk = walked(stored(COUNTED.format(past="int64", total="int64")), TOKENS[4:], first=first)
    assert np.abs(np.concatenate(given, 1)[0] - numpy_logits(TOKENS)[0][4:]).max() < 1e-4
    assert [int(feeds["past_sequence_length"]) for feeds in walk.steps] == [4, 5, 6]


SINGLE = """g (int64[{ids}] tokens, int64[b] lengths, float[b, 8] state) => (float[b, 13] logits, float[b, 8] state_out)
    <int64[2] flat = {{-1, 8}}> {{
    e0 = Gather (table, tokens)  e = Reshape (e0, flat)  r = MatMul (state, wq)  x = Add (e, r)
    state_out = Tanh (x)  n0 = Cast <to = 1> (lengths)  n = Reshape (n0, column)  y = MatMul (state_out, vocabulary)
    logits = Mul (y, n) }}"""


def recurrent_scores(tokens):
    """What `SINGLE` gives after each token, by numpy in float64."""
    state, scores = np.zeros(8), []
    for token in tokens:
        state = np.tanh(WEIGHTS["table"][token].astype(np.float64) + state @ WEIGHTS["wq"])
        scores.append(state @ WEIGHTS["vocabulary"])
    return np.array(scores)


@pytest.mark.parametrize("ids", ["b", "b, 1"])
def test_a_model_of_one_token_is_fed_them_singly(ids):
    model = stored(SINGLE.format(ids=ids), column=np.array([-1, 1]))
    loaded = onnxscope.load_model(model)
    states = find_states(loaded.inputs, loaded.outputs)
    assert [state.input.name for state in states] == ["state"]
    expected = recurrent_scores(TOKENS)
    ids_spec = next(spec for spec in loaded.inputs if spec.name == "tokens")
    walk = Walker(loaded, states).over_tokens(TOKENS, {}, ids=ids_spec)
    session = open_session(loaded)
    given = [session.run(feeds, ["logits"])["logits"][0] for feeds in walk.steps]
    assert np.abs(given - expected).max() < 1e-4
    assert {int(feeds["lengths"][0]) for feeds in walk.steps} == {1}  # no state counts what was
    walk = Walker(loaded, states).over_tokens(TOKENS[:3], {}, 2, ids=ids_spec)
    assert len(walk.steps) == 4
    assert walk.tokens[3] == int(expected[2].argmax())


@pytest.mark.parametrize("ids", ["b", "b, 1"])
def test_a_text_for_a_model_of_one_token_is_stepped_word_by_word(ids, tmp_path):
    onnx.save(stored(SINGLE.format(ids=ids), column=np.array([-1, 1])), tmp_path / "single.onnx")
    small_tokenizer().save(str(tmp_path / "tokenizer.json"))
    (tmp_path / "lines.txt").write_text("two four nine\nten")
    maps = onnxscope.features(tmp_path / "single.onnx", tmp_path / "lines.txt", select="value:logits")
    expected = np.concatenate([recurrent_scores([3, 5, 10]), recurrent_scores([11])])
    assert np.abs(maps[0].data - expected).max() < 1e-4
    assert maps.input["state"]["tokens"] == [[3, 5, 10], [11]]
    assert maps.input["state"]["names"] == [["two", "four", "nine"], ["ten"]]
    maps = onnxscope.features(tmp_path / "single.onnx", "text:two four nine", select="value:logits", generate=2)
    assert maps.input["state"]["tokens"][0][3] == expected[2].argmax()
