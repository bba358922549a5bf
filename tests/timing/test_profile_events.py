"""Reading onnxruntime's profile: what ran inside what, and lines that a name breaks."""

from __future__ import annotations

from onnxscope.timing.profile_events import read_profile


def node(name: str, start: int, duration: int, op: str, extra: str = "") -> str:
    return (
        f'{{"cat" : "Node","pid" :1,"tid" :1,"dur" :{duration},"ts" :{start},"ph" : "X",'
        f'"name" :"{name}_kernel_time","args" : {{"op_name" : "{op}"{extra}}}}},'
    )


def session(name: str, start: int, duration: int) -> str:
    return (
        f'{{"cat" : "Session","pid" :1,"tid" :1,"dur" :{duration},"ts" :{start},"ph" : "X",'
        f'"name" :"{name}","args" : {{}}}},'
    )


EXECUTE = "SequentialExecutor::Execute"


def written(tmp_path, *lines: str):
    path = tmp_path / "profile.json"
    path.write_text("[\n" + "\n".join(lines).rstrip(",") + "\n]\n")
    return path


def test_what_ran_in_a_body_stands_in_its_owner(tmp_path):
    path = written(
        tmp_path,
        session("model_loading_array", 0, 5),
        node("a", 10, 4, "Relu", ',"mem_bytes_in_use" : "64","mem_in_use_peak" : "80"'),
        node("b", 20, 3, "Sin"),
        session(EXECUTE, 19, 5),
        node("b", 26, 3, "Sin"),
        session(EXECUTE, 25, 5),
        node("loop", 18, 14, "Loop"),
        node("c", 40, 2, "Neg"),
        session(EXECUTE, 9, 34),
        session("model_run", 8, 36),
        node("a", 110, 4, "Relu"),
        session(EXECUTE, 109, 8),
        session("model_run", 108, 12),
    )
    first, second = read_profile(path)
    assert [(call.name, call.op_type, call.duration_us) for call in first.calls] == [
        ("a", "Relu", 4),
        ("loop", "Loop", 14),
        ("c", "Neg", 2),
    ]
    assert [[call.name for call in body] for body in first.calls[1].bodies] == [["b"], ["b"]]
    assert (first.calls[0].in_use_bytes, first.calls[0].peak_bytes) == (64, 80)
    assert (first.calls[2].in_use_bytes, first.duration_us) == (None, 36)
    assert [call.name for call in second.calls] == ["a"]


def test_a_name_that_breaks_its_line_costs_no_duration(tmp_path):
    path = written(
        tmp_path,
        node('q"u\nx', 10, 4, "Relu"),
        node("b", 20, 3, "Sin"),
        session(EXECUTE, 9, 20),
        session("model_run", 8, 25),
    )
    (run,) = read_profile(path)
    assert [(call.op_type, call.duration_us) for call in run.calls] == [("", 4), ("Sin", 3)]


def test_a_profile_that_was_cut_off_has_the_whole_runs_alone(tmp_path):
    path = written(tmp_path, node("a", 10, 4, "Relu"), session(EXECUTE, 9, 6), session("model_run", 8, 8))
    with open(path, "a") as stream:
        stream.write('{"cat" : "Node","pid" :1,"ti')
    assert len(read_profile(path)) == 1
