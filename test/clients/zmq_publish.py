"""Publish with libzmq.

    zmq_publish.py push ADDRESS CHANNEL TEXT...   connect a PUSH socket
    zmq_publish.py pub  ADDRESS CHANNEL TEXT...   connect a PUB socket, wait until the channel is subscribed to

Prints "waiting" before it waits for the subscription.
"""

import json
import sys

import zmq


def item(channel, text):
    return b"J" + json.dumps({"channel": channel, "formats": {"http-stream": {"content": text}}}).encode()


def main():
    kind, address, channel, texts = sys.argv[1], sys.argv[2], sys.argv[3], sys.argv[4:]
    context = zmq.Context()
    if kind == "push":
        sock = context.socket(zmq.PUSH)
        sock.connect(f"tcp://{address}")
        for text in texts:
            sock.send(item(channel, text))
    else:
        # An XPUB socket is a PUB socket that shows its subscriptions.
        sock = context.socket(zmq.XPUB)
        sock.connect(f"tcp://{address}")
        print("waiting", flush=True)
        sock.rcvtimeo = 10000
        while sock.recv() != b"\x01" + channel.encode():
            pass
        for text in texts:
            sock.send_multipart([channel.encode(), item(channel, text)])
    sock.close(linger=5000)
    context.term()


main()
