#!/usr/bin/env bash
# Runs a redis-server of our own for as long as standard input stays open:
#
#   redis.sh [MAXMEMORY, default 4gb]
#
# Prints one line, "unix:PATH tcp:HOST:PORT pid:PID", when the server answers; ends it at end of input or at a signal. Nothing
# is persisted, full memory is an error (noeviction), and the directory with socket and log is removed.
set -u

maxmemory=${1:-4gb}
for tool in redis-server redis-cli; do
    if ! command -v "$tool" >/dev/null; then
        echo "redis.sh: $tool is not in PATH (Debian: redis-server)" >&2
        exit 127
    fi
done

dir=$(mktemp -d "${TMPDIR:-/tmp}/kvfuse-redis.XXXXXX") || exit 1
server=
cleanup() {
    trap - EXIT
    if [ -n "$server" ]; then
        kill -TERM "$server" 2>/dev/null
        for _ in $(seq 50); do
            kill -0 "$server" 2>/dev/null || break
            sleep 0.1
        done
        kill -KILL "$server" 2>/dev/null
        wait "$server" 2>/dev/null
    fi
    rm -rf "$dir"
}
exec 3<&0 # a background command has no standard input of its own
trap cleanup EXIT
trap 'exit 143' TERM
trap 'exit 130' INT HUP

# The server dies with this script, even if that is killed.
guard=()
if command -v setpriv >/dev/null && setpriv --pdeathsig KILL true 2>/dev/null; then guard=(setpriv --pdeathsig KILL); fi

for _ in $(seq 20); do
    port=$((20000 + RANDOM % 12000))
    "${guard[@]}" redis-server --port "$port" --bind 127.0.0.1 --unixsocket "$dir/redis.sock" --unixsocketperm 600 \
        --save "" --appendonly no --maxmemory "$maxmemory" --maxmemory-policy noeviction --daemonize no --dir "$dir" \
        --logfile "$dir/redis.log" --protected-mode yes </dev/null >/dev/null 2>&1 3<&- &
    server=$!
    for _ in $(seq 100); do
        kill -0 "$server" 2>/dev/null || break # the port is taken: try another
        if [ "$(redis-cli -s "$dir/redis.sock" ping 2>/dev/null)" = PONG ]; then
            echo "unix:$dir/redis.sock tcp:127.0.0.1:$port pid:$server"
            # In the background, so that a signal is served at once.
            cat >/dev/null <&3 &
            reader=$!
            wait "$reader"
            kill "$reader" 2>/dev/null
            exit 0
        fi
        sleep 0.05
    done
    kill -KILL "$server" 2>/dev/null
    wait "$server" 2>/dev/null
done
echo "redis.sh: the server did not start:" >&2
cat "$dir/redis.log" >&2
server=
exit 1
