"""A client of kvmd's API that works like kvmd, with aiohttp: kvmd_client.py SOCKET WHAT [ARGUMENT…]"""

import asyncio
import json
import os
import sys

import aiohttp


def connected():
    return aiohttp.ClientSession(
        headers={"User-Agent": "KVMD-PSTRun/4.20"},
        connector=aiohttp.UnixConnector(path=sys.argv[1], limit=0),
    )


def say(text):
    print(text, flush=True)


async def events(ws):
    """Yields the events up to the close frame, which must come last."""
    while True:
        msg = await ws.receive(timeout=20)
        if msg.type == aiohttp.WSMsgType.TEXT:
            data = json.loads(msg.data)
            assert set(data) == {"event_type", "event"}, data
            assert isinstance(data["event"], dict), data
            yield (data["event_type"], data["event"])
        else:
            assert msg.type == aiohttp.WSMsgType.CLOSE, msg
            say(f"closed {msg.data} {msg.extra}")
            return


async def first_storage(ws):
    """Returns the first storage event. Only `loop` may come before it."""
    seen = []
    async for (event_type, event) in events(ws):
        if event_type == "storage":
            assert seen == [("loop", {})], seen
            return event
        seen.append((event_type, event))
    raise AssertionError("closed without a storage event")


async def state():
    """GET /state"""
    async with connected() as session:
        async with session.get("http://localhost:0/state") as resp:
            assert resp.status == 200, resp
            assert resp.content_type == "application/json", resp
            result = await resp.json()
            assert result["ok"] is True, result
            say(json.dumps(result["result"]))


async def one(session, name, text):
    """Works like kvmd: waits for permission, writes, closes."""
    async with session.ws_connect("http://localhost:0/ws") as ws:
        storage = await first_storage(ws)
        assert storage["data"]["write_allowed"] is True, storage
        with open(os.path.join(storage["data"]["path"], "data", name), "w") as file:
            file.write(text)
    assert ws.close_code == 1000, ws.close_code
    return storage


async def write(name, text):
    async with connected() as session:
        say(json.dumps(await one(session, name, text)))


async def many(count):
    """Runs `count` clients at once, each with its own file."""
    async with connected() as session:
        await asyncio.gather(*[one(session, f"file{n}", str(n)) for n in range(int(count))])
    say("done")


async def hold():
    """Holds a session and prints its events until it is denied, revoked or killed."""
    async with connected() as session:
        async with session.ws_connect("http://localhost:0/ws") as ws:
            async for (event_type, event) in events(ws):
                say(f"{event_type} {json.dumps(event)}")


async def close_on_input():
    """Closes its session when the input ends, and prints the code of the closing handshake."""
    async with connected() as session:
        async with session.ws_connect("http://localhost:0/ws") as ws:
            say(json.dumps(await first_storage(ws)))
            await asyncio.get_running_loop().run_in_executor(None, sys.stdin.read)
        say(f"code {ws.close_code}")


async def talk():
    """Sends invalid events, which are passed over, and pings, which are answered."""
    async with connected() as session:
        async with session.ws_connect("http://localhost:0/ws") as ws:
            await first_storage(ws)
            for text in ["", "{", "[]", "null", '{"event_type": "ping"}', '{"event_type": "x", "event": {}}']:
                await ws.send_str(text)
            await ws.send_bytes(b"\x01\x02")
            await ws.ping(b"hello")
            await ws.send_str(json.dumps({"event_type": "ping", "event": {}}))
            async for (event_type, event) in events(ws):
                if event_type == "pong":
                    assert event == {}, event
                    say("pong")
                    break
            await ws.send_str("x" * 4096)  # the largest
            await ws.send_str(json.dumps({"event_type": "ping", "event": {}}))
            async for (event_type, event) in events(ws):
                if event_type == "pong":
                    say("pong")
                    break
            await ws.send_str("x" * 4097)
            async for _ in events(ws):
                pass


asyncio.run(globals()[sys.argv[2]](*sys.argv[3:]))
