"""Channels: frames arrive whole, in order, with their descriptors, whatever the socket does."""

import asyncio
import os
import resource
import socket

import msgspec
import pytest

from appliance.net import channel
from appliance.net.channel import Channel

decode = msgspec.msgpack.decode


def test_frames_keep_their_order_and_borders() -> None:
    left, right = channel.pair()
    for number in range(100):
        left.send({"n": number})
    got = []
    while len(got) < 100:
        got += [decode(payload)["n"] for payload, _ in right.on_readable()]
    assert got == list(range(100))


def test_a_descriptor_travels_with_its_frame() -> None:
    left, right = channel.pair()
    read, write = os.pipe()
    left.send("first")
    left.send("with", (write,))
    os.close(write)
    frames = right.on_readable()
    while len(frames) < 2:
        frames += right.on_readable()
    assert [len(fds) for _, fds in frames] == [0, 1]
    os.write(frames[1][1][0], b"x")
    assert os.read(read, 1) == b"x"
    for fd in (read, *frames[1][1]):
        os.close(fd)


async def test_what_the_socket_does_not_take_waits_with_its_descriptors() -> None:
    left, right = channel.pair()
    left.sock.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 8192)
    got: list[tuple[int, int]] = []
    done = asyncio.Event()
    loop = asyncio.get_running_loop()

    def take(payload: bytes, fds: list[int]) -> None:
        got.append((len(decode(payload)), len(fds)))
        for fd in fds:
            os.close(fd)
        if len(got) == 50:
            done.set()

    left.attach(loop, lambda payload, fds: None)
    read, write = os.pipe()
    for number in range(50):
        left.send(b"x" * 50_000, (write,) if number % 10 == 9 else ())
    os.close(write)
    assert left.backlog > 0
    right.attach(loop, take)
    await asyncio.wait_for(done.wait(), 10)
    assert got == [(50_000, 1 if number % 10 == 9 else 0) for number in range(50)]
    assert left.backlog == 0
    left.close()
    right.close()
    os.close(read)


def test_a_frame_whose_descriptors_were_lost_takes_no_others() -> None:
    """Out of descriptors while a long frame comes: the next one keeps its own."""
    left, right = channel.pair()
    pipes = [os.pipe() for _ in range(4)]
    limits = resource.getrlimit(resource.RLIMIT_NOFILE)
    frames: list[channel.Frame] = []
    try:
        left.send(b"x" * 500_000, (pipes[0][1], pipes[1][1]))
        lowest = os.dup(0)
        os.close(lowest)
        resource.setrlimit(resource.RLIMIT_NOFILE, (lowest + 1, limits[1]))
        frames += right.on_readable()
        resource.setrlimit(resource.RLIMIT_NOFILE, limits)
        assert not frames
        left.send(b"y", (pipes[2][1], pipes[3][1]))
        while len(frames) < 2:
            left.on_writable()
            frames += right.on_readable()
        lost, whole = (fds for _, fds in frames)
        assert len(lost) == 1 and len(whole) == 2
        for (read, _), fd in zip((pipes[0], *pipes[2:]), (*lost, *whole), strict=True):
            os.write(fd, b"z")
            assert os.read(read, 1) == b"z"
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, limits)
        for fd in (*(fd for pipe in pipes for fd in pipe), *(fd for _, fds in frames for fd in fds)):
            os.close(fd)
        left.close()
        right.close()


def test_descriptors_that_cannot_all_wait_leave_none_behind() -> None:
    """Out of descriptors, and the frame would have to wait: it is not sent, and takes none of the last ones."""
    left, right = channel.pair()
    read, write = os.pipe()
    limits = resource.getrlimit(resource.RLIMIT_NOFILE)
    left.send(b"x" * 5_000_000)
    lowest = os.dup(0)
    os.close(lowest)
    resource.setrlimit(resource.RLIMIT_NOFILE, (lowest + 1, limits[1]))
    try:
        with pytest.raises(OSError, match="Too many open files"):
            left.send(b"y", (write, write))
        os.close(os.dup(0))
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, limits)
        left.close()
        right.close()
        os.close(read)
        os.close(write)


def test_descriptors_that_came_without_the_rest_of_their_frame_are_closed() -> None:
    left, right = channel.pair()
    read, write = os.pipe()
    left.send(b"x" * 5_000_000, (write,))
    os.close(write)
    assert right.on_readable() == []
    right.close()
    left.close()
    assert os.read(read, 1) == b"", "nobody has the other end"
    os.close(read)


async def test_the_end_of_the_peer_is_told_once() -> None:
    left, right = channel.pair()
    ended: list[int] = []
    over = asyncio.Event()
    right.attach(asyncio.get_running_loop(), lambda p, f: None, lambda: (ended.append(1), over.set())[1])
    left.close()
    await asyncio.wait_for(over.wait(), 5)
    right.close()
    assert ended == [1]
    with pytest.raises(ConnectionError):
        right.send("too late")


def test_a_broken_length_closes_the_channel() -> None:
    left, right = socket.socketpair()
    reader = Channel(right)
    left.sendall(b"\xff\xff\xff\xff\x00rest")
    assert reader.on_readable() == []
    assert reader.closed
    left.close()


def test_who_takes_no_descriptors_leaves_none_open() -> None:
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_STREAM)
    left, right = Channel(theirs), Channel(ours, takes_fds=False)
    read, write = os.pipe()
    left.send("one")
    left.send("two", (write,))
    os.close(write)
    left.send("x" * 200_000)
    got: list[tuple[str, list[int]]] = []
    while len(got) < 3:
        left.on_writable()
        got += [(decode(payload), fds) for payload, fds in right.on_readable()]
    assert got == [("one", []), ("two", []), ("x" * 200_000, [])]
    assert os.read(read, 1) == b"", "the kernel closed the only other end"
    os.close(read)
    left.close()
    assert right.on_readable() == [] and right.closed
