"""One bare TCP stream for two seconds: what the link gives. Prints bytes a second at the sender's end of what the receiver has acknowledged."""
import socket
import sys
import time

SECONDS = 2.0
CHUNK = bytes(1 << 20)


def receive(host, port):
    with socket.create_server((host, port)) as server:
        connection, _ = server.accept()
        with connection:
            total = 0
            while got := connection.recv(1 << 20):
                total += len(got)
            connection.sendall(str(total).encode())


def send(host, port):
    with socket.create_connection((host, port)) as connection:
        start = time.monotonic()
        while time.monotonic() - start < SECONDS:
            connection.sendall(CHUNK)
        connection.shutdown(socket.SHUT_WR)
        total = int(connection.recv(64))
        print(total / (time.monotonic() - start))


if __name__ == "__main__":
    (receive if sys.argv[1] == "receive" else send)(sys.argv[2], int(sys.argv[3]))
