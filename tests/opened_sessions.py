"""Which sessions are opened meanwhile, and how often they run."""

from __future__ import annotations

from dataclasses import dataclass

from onnxscope.runtime.session import Session


@dataclass
class OpenedSession:
    """A session: of what it is, and how many runs it made."""

    where: str
    runs: int = 0


def watch_sessions(monkeypatch):
    """The sessions that anything opens from now on, in that order; the list grows."""
    sessions = []
    # `open_session` is imported by name wherever it is used; whoever calls it, it makes one of these.
    open_one, run_one = Session.__init__, Session.run

    def opening(session, proto, **options):
        session.watched = OpenedSession(options["where"])
        sessions.append(session.watched)
        open_one(session, proto, **options)

    def running(session, feeds, outputs=None):
        session.watched.runs += 1
        return run_one(session, feeds, outputs)

    monkeypatch.setattr(Session, "__init__", opening)
    monkeypatch.setattr(Session, "run", running)
    return sessions
