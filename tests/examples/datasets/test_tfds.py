"""TFDS's folders: whether there is a network."""

import threading

import pytest
import requests

from examples.datasets import tfds


def test_a_server_that_does_not_answer_is_given_up(monkeypatch):
    answer = threading.Event()
    monkeypatch.setattr(requests, "head", lambda *args, **kwargs: answer.wait())
    reason = tfds._unreachable("http://unused", seconds=0.01)
    assert str(reason) == "no answer in 0.01 seconds"


@pytest.mark.parametrize(
    ("status", "reachable"), [(200, True), (404, True), (503, False)]
)
def test_a_proxy_without_a_network_is_not_an_answer(monkeypatch, status, reachable):
    response = requests.Response()
    response.status_code = status
    monkeypatch.setattr(requests, "head", lambda *args, **kwargs: response)
    assert (tfds._unreachable("http://unused") is None) == reachable
