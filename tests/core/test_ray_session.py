"""Starting Ray on a busy machine: one failure is tried again, two are raised."""

from typing import Any

import pytest
import ray

from neuneu.core.ray_session import cluster_address, ray_session


@pytest.mark.parametrize("failures", [1, 2])
def test_local_start_is_tried_twice(failures: int, monkeypatch: pytest.MonkeyPatch) -> None:
    started: list[dict[str, Any]] = []

    def init(**settings: Any) -> None:
        started.append(settings)
        if len(started) <= failures:
            raise RuntimeError("the raylet did not start")

    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    monkeypatch.setattr(ray, "init", init)
    monkeypatch.setattr(ray, "shutdown", lambda: None)
    if failures == 1:
        with ray_session():
            assert len(started) == 2
    else:
        with pytest.raises(RuntimeError, match="did not start"), ray_session():
            pass
    assert started[0]["include_dashboard"] is False
    # Ray would otherwise join a cluster that somebody else runs on this machine.
    assert started[0]["address"] == "local"


def test_given_address_is_used(monkeypatch: pytest.MonkeyPatch) -> None:
    started: list[dict[str, Any]] = []
    monkeypatch.setattr(ray, "init", lambda **settings: started.append(settings))
    monkeypatch.setattr(ray, "shutdown", lambda: None)
    with ray_session("ray://somewhere:10001"):
        pass
    assert [settings["address"] for settings in started] == ["ray://somewhere:10001"]


def test_the_cluster_is_the_given_one_else_that_of_the_variable(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    assert cluster_address() is None
    assert cluster_address("auto") == "auto"
    monkeypatch.setenv("RAY_ADDRESS", "10.0.0.1:6379")
    assert cluster_address() == "10.0.0.1:6379"
    assert cluster_address("auto") == "auto"
