#!/usr/bin/python3
"""Make requests through zurl, with libzmq and nothing else.

    client.py [--json] DIR get URL            over the REQ socket
    client.py [--json] DIR stream URL         over the streaming sockets; writes the body as it comes
    client.py [--json] DIR post URL < FILE    sends a body as it is read
    client.py [--json] DIR fire URL TEXT      sends a callback and does not wait for what comes of it
    client.py [--json] DIR websocket URL TEXT...

DIR has the sockets: see README.md. Debian: apt-get install python3-zmq
"""

import json
import os
import sys
import uuid

import zmq

WINDOW = 100_000  # bytes that we are ready to take at a time
PART = 50_000


def dump(v):
    """A tnetstring."""
    if v is None:
        return b"0:~"
    if isinstance(v, bool):
        data, kind = (b"true" if v else b"false"), b"!"
    elif isinstance(v, int):
        data, kind = str(v).encode(), b"#"
    elif isinstance(v, (str, bytes)):
        data, kind = (v.encode() if isinstance(v, str) else v), b","
    elif isinstance(v, dict):
        data, kind = b"".join(dump(k) + dump(x) for k, x in v.items()), b"}"
    else:
        data, kind = b"".join(map(dump, v)), b"]"
    return b"%d:%s%s" % (len(data), data, kind)


def load(b):
    """The value of a tnetstring, and what follows it."""
    size, _, rest = b.partition(b":")
    data, kind, rest = rest[: int(size)], rest[int(size) : int(size) + 1], rest[int(size) + 1 :]
    if kind == b",":
        return data, rest
    if kind == b"#":
        return int(data), rest
    if kind == b"^":
        return float(data), rest
    if kind == b"!":
        return data == b"true", rest
    if kind == b"~":
        return None, rest
    items = []
    while data:
        v, data = load(data)
        items.append(v)
    if kind == b"}":
        return dict(zip((k.decode() for k in items[::2]), items[1::2])), rest
    return items, rest


def encode(packet, as_json):
    if not as_json:
        return b"T" + dump(packet)
    return b"J" + json.dumps({k: v.decode() if isinstance(v, bytes) else v for k, v in packet.items()}).encode()


def decode(b):
    if b[:1] == b"T":
        packet = load(b[1:])[0]
        text = ("type", "condition", "reason", "content-type", "id")
        return {k: v.decode() if k in text and v is not None else v for k, v in packet.items()}
    packet = json.loads(b[1:])
    if "body" in packet:
        packet["body"] = packet["body"].encode()
    return packet


class Session:
    """A request over the streaming sockets."""

    def __init__(self, directory, as_json):
        self.json, self.id, self.me = as_json, str(uuid.uuid4()), b"client-%d" % os.getpid()
        self.out_seq, self.in_seq, self.instance, self.credits = -1, -1, None, 0
        context = zmq.Context.instance()
        self.push = context.socket(zmq.PUSH)
        self.router = context.socket(zmq.ROUTER)
        self.router.setsockopt(zmq.ROUTER_MANDATORY, 1)  # an error instead of silence
        self.sub = context.socket(zmq.SUB)
        for socket, name in ((self.push, "in"), (self.router, "in-stream"), (self.sub, "out")):
            socket.setsockopt(zmq.RCVTIMEO, 60_000)
            socket.setsockopt(zmq.SNDTIMEO, 60_000)
            socket.connect(f"ipc://{directory}/zurl-{name}")
        # With the space: there may be somebody whose name begins with ours.
        self.sub.subscribe(self.me + b" ")
        # Nobody tells when a subscription has arrived, and what is published
        # before is lost. So ask something that can only be refused until the
        # refusal comes.
        for _ in range(200):
            self.push.send(encode({"from": self.me, "id": "probe", "seq": 0}, self.json))
            if self.sub.poll(100):
                return
        raise TimeoutError("zurl does not answer")

    def packet(self, fields):
        self.out_seq += 1
        return encode({"from": self.me, "id": self.id, "seq": self.out_seq, **fields}, self.json)

    def start(self, **fields):
        self.push.send(self.packet(fields))

    def send(self, **fields):
        self.router.send_multipart([self.instance, b"", self.packet(fields)])

    def receive(self):
        """The next packet that is not about the session itself."""
        while True:
            packet = decode(self.sub.recv().split(b" ", 1)[1])
            if packet.get("id") != self.id:
                continue
            self.in_seq += 1
            if packet.get("seq") != self.in_seq:
                raise RuntimeError(f"packets are missing before {packet}")
            if self.instance is None:
                name = packet["from"]
                self.instance = name if isinstance(name, bytes) else name.encode()
            self.credits += packet.get("credits", 0)
            kind = packet.get("type")
            if kind in ("error", "cancel"):
                raise RuntimeError(f"{kind}: {packet.get('condition')} {packet.get('code', '')}")
            if kind == "keep-alive":
                self.send(type="keep-alive")
            elif kind != "credit":
                return packet
            else:
                return None

    def response(self, out):
        """Writes the body to out and returns the status."""
        code = None
        while True:
            packet = self.receive()
            if packet is None:
                continue
            code = packet.get("code", code)
            out.write(packet["body"])
            if not packet.get("more"):
                return code
            if packet["body"]:
                self.send(type="credit", credits=len(packet["body"]))


def get(directory, as_json, url):
    socket = zmq.Context.instance().socket(zmq.REQ)
    socket.setsockopt(zmq.RCVTIMEO, 60_000)
    socket.connect(f"ipc://{directory}/zurl-req")
    socket.send(encode({"method": "GET", "uri": url, "headers": [["User-Agent", "client.py"]]}, as_json))
    packet = decode(socket.recv())
    if packet.get("type") == "error":
        raise RuntimeError(f"error: {packet['condition']}")
    sys.stdout.buffer.write(packet["body"])
    return packet["code"]


def stream(directory, as_json, url):
    s = Session(directory, as_json)
    s.start(method="GET", uri=url, stream=True, credits=WINDOW)
    return s.response(sys.stdout.buffer)


def post(directory, as_json, url):
    s = Session(directory, as_json)
    s.start(method="POST", uri=url, stream=True, credits=WINDOW, more=True)
    more = True
    while more:
        while s.credits < PART:
            s.receive()
        body = sys.stdin.buffer.read(PART)
        s.credits -= len(body)
        more = len(body) > 0
        s.send(body=body, more=more) if more else s.send(body=b"")
    return s.response(sys.stdout.buffer)


def fire(directory, as_json, url, text):
    socket = zmq.Context.instance().socket(zmq.PUSH)
    socket.connect(f"ipc://{directory}/zurl-in")
    socket.send(encode({"method": "POST", "uri": url, "body": text.encode()}, as_json))
    socket.close()
    zmq.Context.instance().term()  # returns when it is sent
    return "sent"


def websocket(directory, as_json, url, *texts):
    s = Session(directory, as_json)
    s.start(uri=url, credits=WINDOW)
    code = s.receive()["code"]
    for text in texts:
        s.send(body=text.encode())
        packet = None
        while packet is None:
            packet = s.receive()
        print(packet["body"].decode())
        s.send(type="credit", credits=len(packet["body"]))
    s.send(type="close", code=1000)
    while packet is None or packet.get("type") != "close":
        packet = s.receive()
    print("closed", packet.get("code"))
    return code


def main():
    args = sys.argv[1:]
    as_json = args[:1] == ["--json"]
    directory, command, *rest = args[as_json:]
    commands = {"get": get, "stream": stream, "post": post, "fire": fire, "websocket": websocket}
    try:
        code = commands[command](directory, as_json, *rest)
    except (RuntimeError, TimeoutError, zmq.Again) as e:
        sys.exit(f"{e}")
    sys.stdout.flush()
    print(code, file=sys.stderr)


if __name__ == "__main__":
    main()
