"""Clients of a service that is restarted under them. Run as: restart.py UNIT COUNT RESTARTS

COUNT clients each send a part of a frame, eight others exchange frames without a pause, and the unit is restarted.
Then all frames are completed. Prints name=value for what was seen.
"""
import resource
import socket
import struct
import subprocess
import sys
import threading
import time

ADDRESS = ("127.0.0.1", 7004)
PATIENCE = 120
unit, count, restarts = sys.argv[1], int(sys.argv[2]), int(sys.argv[3])
hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))


def connect(number=0):
    # Addresses of 127.0.0.0/8, so that ports do not run out.
    source = f"127.1.{1 + number // 200}.{1 + number % 200}"
    return socket.create_connection(ADDRESS, PATIENCE, (source, 0))


def frame(number):
    payload = bytes((number + i) % 256 for i in range(200))
    return struct.pack(">I", len(payload)) + payload


def exchange(client, message):
    client.sendall(message)
    return expect(client, message)


def expect(client, message):
    answer = b""
    while len(answer) < len(message):
        piece = client.recv(len(message) - len(answer))
        if not piece:
            return False
        answer += piece
    return answer == message


class Busy(threading.Thread):
    """Exchanges frames until told to stop."""

    stop = False

    def __init__(self, number):
        super().__init__()
        self.client, self.message = connect(number), frame(number)
        self.rounds, self.worst, self.failed = 0, 0, None

    def run(self):
        try:
            while not Busy.stop and not self.failed:
                begun = time.monotonic()
                if not exchange(self.client, self.message):
                    self.failed = "other bytes"
                self.worst = max(self.worst, time.monotonic() - begun)
                self.rounds += 1
        except OSError as error:
            self.failed = repr(error)


cut = [1 + number % 203 for number in range(count)]
clients = [connect(number) for number in range(count)]
for number, client in enumerate(clients):
    client.sendall(frame(number)[: cut[number]])
busy = [Busy(number) for number in range(8)]
for one in busy:
    one.start()
refused = 0
for _ in range(restarts):
    restart = subprocess.Popen(["systemctl", "restart", unit])
    while restart.poll() is None:
        try:
            connect().close()
        except OSError:
            refused += 1
    if restart.returncode != 0:
        sys.exit("the restart failed")
Busy.stop = True
for one in busy:
    one.join()
lost = 0
for number, client in enumerate(clients):
    try:
        client.sendall(frame(number)[cut[number] :])
        lost += not expect(client, frame(number))
    except OSError:
        lost += 1
print(f"lost={lost}")
print(f"refused={refused}")
print("failed=" + ", ".join(one.failed for one in busy if one.failed))
print(f"idle={sum(one.rounds == 0 for one in busy)}")
print(f"rounds={sum(one.rounds for one in busy)}")
print(f"worst={max(one.worst for one in busy):.3f}")
