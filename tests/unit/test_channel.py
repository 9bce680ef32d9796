"""Connections of the server: what several threads send."""

import socket
import threading
from types import SimpleNamespace

from waitress.adjustments import Adjustments

from mlapi.http.channel import Channel

CONTINUE = b"HTTP/1.1 100 Continue\r\n\r\n"


def test_what_two_threads_send_at_once_is_sent_once() -> None:
    ours, theirs = socket.socketpair()
    with ours, theirs:
        channel = Channel(
            SimpleNamespace(draining=False), SimpleNamespace(active_channels={}), ours, ("", 0), Adjustments(), map={}
        )
        channel.outbufs[-1].append(CONTINUE)
        channel.total_outbufs_len = len(CONTINUE)
        send, sending, proceed = channel.send, threading.Event(), threading.Event()

        def wait_and_send(data: bytes, do_close: bool = True) -> int:
            sending.set()
            proceed.wait(20)
            return int(send(data, do_close=do_close))

        channel.send = wait_and_send
        threads = [threading.Thread(target=channel._flush_some) for _ in range(2)]
        threads[0].start()
        assert sending.wait(20)
        threads[1].start()
        threads[1].join(0.2)  # Until it has to wait for the other thread, or sends the same.
        proceed.set()
        for thread in threads:
            thread.join()
        assert theirs.recv(1000) == CONTINUE
