"""What demo.sh shows: one line a claim, `ok` or `FAIL`, with what the clients read back.

Real clients (PyMySQL, mysql-connector-python, the mariadb command line) against a running Shunt whose
addresses demo.sh puts into the environment. Exit status 1 when a line is FAIL.
"""

import collections
import json
import os
import subprocess
import sys
import threading
import time
import urllib.request

import mysql.connector
import pymysql

PORT = int(os.environ["DEMO_MYSQL"])
API = os.environ["DEMO_API"]
METRICS = os.environ["DEMO_METRICS"]
FIRST_CN_PORT = int(os.environ["DEMO_CNS"])
SHUNTCTL = os.environ["DEMO_SHUNTCTL"]
CLUSTER = os.environ["DEMO_CLUSTER"]
CLUSTER_FOLDER = os.environ["DEMO_CLUSTER_FOLDER"]
with open(os.path.join(os.environ["DEMO_PASSWORDS"], "app"), encoding="ascii") as file:
    PASSWORD = file.read().strip()
CNS = ["cn-1", "cn-2", "cn-3"]
MYSQL_ERRORS = (pymysql.err.MySQLError, mysql.connector.Error)

failed = 0


def line(claim, good, seen):
    global failed
    failed += not good
    print(f"{'ok  ' if good else 'FAIL'} {claim}: {seen}", flush=True)


def claim(words):
    """The function under it returns whether the claim holds and what was seen; an exception is a FAIL."""

    def run(check):
        try:
            good, seen = check()
        except Exception as unexpected:  # Whatever it is, the claim does not hold.
            good, seen = False, f"{type(unexpected).__name__}: {unexpected}"
        line(words, good, seen)

    return run


def connect(user, port=PORT, password=PASSWORD):
    return pymysql.connect(
        host="127.0.0.1", port=port, user=user, password=password, database="shop",
        ssl_disabled=True, autocommit=True, connect_timeout=15, read_timeout=30, write_timeout=30,
    )


def query(connection, sql):
    with connection.cursor() as cursor:
        cursor.execute(sql)
        return cursor.fetchall()


def one(connection, sql):
    return query(connection, sql)[0][0]


def node(connection):
    return one(connection, "SELECT @@wsrep_node_name")


def spread(connections):
    return collections.Counter(node(connection) for connection in connections)


def shown(counts):
    return ", ".join(f"{name} {count}" for name, count in sorted(counts.items())) or "nothing"


def refusal(user, password=PASSWORD):
    """What a login that must fail is told: code, SQLSTATE, words."""
    try:
        connection = mysql.connector.connect(
            host="127.0.0.1", port=PORT, user=user, password=password, database="shop",
            ssl_disabled=True, use_pure=True, connection_timeout=15,
        )
    except mysql.connector.Error as error:
        return error.errno, error.sqlstate, error.msg
    where = connection.cursor()
    where.execute("SELECT @@wsrep_node_name")
    return 0, "", f"let in, on {where.fetchone()[0]}"


def refused(user, code, state, words, password=PASSWORD):
    got, got_state, message = refusal(user, password)
    good = got == code and got_state == state and all(word in message for word in words)
    return good, f"{got} ({got_state}) {message}"


def shuntctl(*arguments):
    done = subprocess.run(
        [SHUNTCTL, "--server", API, "-o", "json", *arguments], capture_output=True, text=True, timeout=30
    )
    if done.returncode:
        raise RuntimeError(f"shuntctl {' '.join(arguments)}: {done.stderr.strip()}")
    return json.loads(done.stdout or "null")


def until(check, seconds=8):
    """Counts are a second old: asked again until they are right or the time is over."""
    end = time.monotonic() + seconds
    while True:
        good, seen = check()
        if good or time.monotonic() > end:
            return good, seen
        time.sleep(0.1)


held = []


@claim("20 sessions of acme:app?workload=tp are spread evenly over the group tp")
def _():
    held.extend(connect("acme:app?workload=tp") for _ in range(20))
    counts = spread(held)
    return set(counts) == {"cn-1", "cn-2"} and abs(counts["cn-1"] - counts["cn-2"]) <= 1, shown(counts)


@claim("3 sessions of the default tenant land on the CN without labels")
def _():
    sessions = [connect("app") for _ in range(3)]
    held.extend(sessions)
    counts = spread(sessions)
    return counts == {"cn-3": 3}, shown(counts)


@claim("a connection attribute workload=tp asks for the label like the user name does")
def _():
    connection = mysql.connector.connect(
        host="127.0.0.1", port=PORT, user="acme:app", password=PASSWORD, database="shop",
        ssl_disabled=True, use_pure=True, conn_attrs={"workload": "tp"},
    )
    cursor = connection.cursor()
    cursor.execute("SELECT @@wsrep_node_name")
    name = cursor.fetchone()[0]
    connection.close()
    return name in ("cn-1", "cn-2"), name


@claim("acme without a label goes to the CN without labels")
def _():
    connection = connect("acme:app")
    name = node(connection)
    connection.close()
    return name == "cn-3", name


@claim("the mariadb command line, tenant#user")
def _():
    done = subprocess.run(
        ["mariadb", "--no-defaults", "--skip-ssl", "-h", "127.0.0.1", "-P", str(PORT), "-u", "acme#app?workload=tp",
         "-BN", "-e", "SELECT @@wsrep_node_name, USER(), CURRENT_USER()"],
        capture_output=True, text=True, timeout=20, env={**os.environ, "MYSQL_PWD": PASSWORD},
    )
    words = done.stdout.split()
    good = done.returncode == 0 and words[:1] in (["cn-1"], ["cn-2"]) and words[2] == "app@%"
    return good, (done.stdout or done.stderr).strip().replace("\t", " ")


@claim("what is written through cn-1 is read through cn-3")
def _():
    writer = next(connection for connection in held if node(connection) == "cn-1")
    reader = next(connection for connection in held if node(connection) == "cn-3")
    query(writer, "CREATE OR REPLACE TABLE note (id INT PRIMARY KEY, words VARCHAR(50))")
    query(writer, "INSERT INTO note VALUES (1, 'written on cn-1')")
    # Galera's own barrier: the reader waits until it has what was committed before.
    query(reader, "SET wsrep_sync_wait = 1")
    words = one(reader, "SELECT words FROM note WHERE id = 1")
    return words == "written on cn-1", f"{node(reader)} says {words!r}"


@claim("8 clients read and write for 3 seconds, half of them on each group")
def _():
    setup = connect("app")
    query(setup, "CREATE OR REPLACE TABLE work (client INT, n INT, node VARCHAR(10), PRIMARY KEY (client, n))")
    done, errors, seen = [0] * 8, [], collections.Counter()

    def work(client):
        try:
            connection = connect("acme:app?workload=tp" if client % 2 else "app")
            query(connection, "SET wsrep_sync_wait = 1")
            where = node(connection)
            end = time.monotonic() + 3
            while time.monotonic() < end:
                n = done[client] + 1
                query(connection, "BEGIN")
                query(connection, f"INSERT INTO work VALUES ({client}, {n}, @@wsrep_node_name)")
                query(connection, "COMMIT")
                count, name = query(connection, f"SELECT COUNT(*), MAX(node) FROM work WHERE client = {client}")[0]
                if (count, name) != (n, where):
                    errors.append(f"client {client} reads {count} rows by {name}, not {n} by {where}")
                done[client] = n
                seen[where] += 1
            connection.close()
        except Exception as error:  # Each client counts its own.
            errors.append(f"client {client}: {error}")

    threads = [threading.Thread(target=work, args=(client,)) for client in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    query(setup, "SET wsrep_sync_wait = 1")
    total = one(setup, "SELECT COUNT(*) FROM work")
    setup.close()
    good = not errors and total == sum(done) > 0 and all(done)
    return good, f"{sum(done)} transactions ({shown(seen)}), {total} rows, {len(errors)} errors {errors[:2] or ''}".strip()


@claim("nowhere to go: strict:app?workload=ap is refused, with the reason")
def _():
    return refused("strict:app?workload=ap", 1105, "08004", ["no CN carries the labels", "workload=ap"])


@claim("a suspended tenant is refused")
def _():
    return refused("closed:app", 4151, "HY000", ["tenant closed is suspended"])


@claim("an address that is not on the allow list is refused")
def _():
    return refused("fenced:app", 1130, "HY000", ["address 127.0.0.1 is not on the allow list of tenant fenced"])


@claim("a tenant has no more sessions than its limit")
def _():
    sessions = [connect("small:app") for _ in range(2)]
    try:
        return refused("small:app", 1040, "08004", ["tenant small has reached its limit of 2 sessions"])
    finally:
        for session in sessions:
            session.close()


@claim("a wrong password is refused in the CN's own words")
def _():
    return refused("acme:app?workload=tp", 1045, "28000", ["Access denied for user 'app'@"], password="wrong")


def counted_by_the_cns():
    """How many sessions of `app` each server itself has, asked past Shunt."""
    counts = {}
    for i, name in enumerate(CNS):
        direct = connect("app", FIRST_CN_PORT + i)
        # Less the one that asks.
        counts[name] = one(direct, "SELECT COUNT(*) - 1 FROM information_schema.processlist WHERE user = 'app'")
        direct.close()
    return counts


@claim("shuntctl cn list -o json counts what the CNs themselves count")
def _():
    def check():
        listed = {cn["name"]: (cn["sessions"], cn["state"], cn["health"]) for cn in shuntctl("cn", "list")["cns"]}
        truth = counted_by_the_cns()
        good = listed == {name: (truth[name], "working", "up") for name in CNS} and sum(truth.values()) == len(held)
        return good, f"{shown({name: cn[0] for name, cn in listed.items()})}; the CNs: {shown(truth)}"

    return until(check)


@claim("shuntctl group list -o json counts the sessions of each group")
def _():
    def check():
        counts = {group["name"]: group["sessions"] for group in shuntctl("group", "list")["groups"]}
        return counts == {"tp": 20, "shared": 3}, shown(counts)

    return until(check)


@claim("shuntctl session list has every session where its client is")
def _():
    listed = {session["id"]: session["cn"] for session in shuntctl("session", "list")["sessions"]}
    here = {connection.thread_id(): node(connection) for connection in held}
    return listed == here, f"{len(listed)} sessions, {shown(collections.Counter(listed.values()))}"


@claim("shuntctl explain says where acme with workload=tp goes")
def _():
    answer = shuntctl("explain", "--tenant", "acme", "--user", "app", "--label", "workload=tp")
    return sorted(answer["match"]) == ["cn-1", "cn-2"], answer["summary"]


@claim("shuntctl explain says why strict with workload=ap goes nowhere")
def _():
    answer = shuntctl("explain", "--tenant", "strict", "--user", "app", "--label", "workload=ap")
    good = not answer["match"] and answer["refusal"]["code"] == 1105
    return good and "no CN carries the labels" in answer["refusal"]["message"], answer["refusal"]["message"]


@claim("KILL by the id that the client was given ends that session and no other")
def _():
    victim, killer = connect("acme:app?workload=tp"), connect("acme:app?workload=tp")
    number = victim.thread_id()
    query(killer, f"KILL {number}")
    try:
        said = f"still answers: {query(victim, 'SELECT 1')}"
        ended = False
    except pymysql.err.OperationalError as error:
        said, ended = f"{error.args[0]}", error.args[0] in (2006, 2013)
    others = sum(one(connection, "SELECT 1") == 1 for connection in held)
    killer.close()
    good = ended and others == len(held) and 2**30 <= number < 2**31
    return good, f"{number} is gone ({said}), {others} others answer"


@claim("KILL of an id that nobody has is refused")
def _():
    connection = connect("app")
    try:
        query(connection, f"KILL {2**31 - 1}")
        return False, "accepted"
    except MYSQL_ERRORS as error:
        return error.args[0] == 1094, f"{error.args[0]} {error.args[1]}"
    finally:
        connection.close()


@claim("a session that is moved keeps what its client set and prepared")
def _():
    connection = mysql.connector.connect(
        host="127.0.0.1", port=PORT, user="acme:app?workload=tp", password=PASSWORD, database="shop",
        ssl_disabled=True, use_pure=True, autocommit=True,
    )
    plain = connection.cursor()

    def answer(sql):
        plain.execute(sql)
        return plain.fetchall()[0]

    state = "SELECT @v, @@sql_mode, @@time_zone, DATABASE(), LAST_INSERT_ID()"
    plain.execute("CREATE OR REPLACE TABLE numbered (id INT AUTO_INCREMENT PRIMARY KEY, words VARCHAR(50))")
    plain.execute("SET @v = 'kept', sql_mode = 'ANSI_QUOTES', time_zone = '+03:00'")
    prepared = connection.cursor(prepared=True)
    prepared.execute("SELECT CONCAT(?, ' by the same statement')", ("read",))
    prepared.fetchall()
    plain.execute("INSERT INTO numbered (words) VALUES ('before the move')")
    before, (was,) = answer(state), answer("SELECT @@wsrep_node_name")
    moved = shuntctl("session", "move", str(connection.connection_id))
    after, (now,) = answer(state), answer("SELECT @@wsrep_node_name")
    # Its own write, on a node that may not have had it when it came.
    rows = answer("SELECT COUNT(*) FROM numbered")[0]
    prepared.execute("SELECT CONCAT(?, ' by the same statement')", ("read",))
    words = prepared.fetchall()[0][0]
    connection.close()
    good = moved["outcome"] == "moved" and was != now and before == after and rows == 1
    return good and words == "read by the same statement", f"from {was} to {now}: {after}, {words!r}"


def metric(name):
    """The samples of the data plane's metrics that begin with the name, each with its labels."""
    with urllib.request.urlopen(METRICS, timeout=10) as page:
        lines = page.read().decode().splitlines()
    return {line.rsplit(" ", 1)[0]: float(line.rsplit(" ", 1)[1]) for line in lines if line.startswith(name)}


def moves():
    return int(metric("shunt_data_moves_total").get('shunt_data_moves_total{outcome="moved"}', 0))


def at_most(histogram, quantile):
    """Within which bound of its histogram that part of the times lies, in milliseconds."""
    counts = [
        (float(line.split('le="')[1].split('"')[0].replace("+Inf", "inf")), count)
        for line, count in metric(f"{histogram}_bucket").items()
    ]
    total = max(count for _, count in counts)
    return min(bound for bound, count in counts if count >= quantile * total) * 1000


table = [("", "sessions", "moves", "pause: median", "pause: p99", "errors that clients saw", "connections lost")]


def row(what, sessions, moved, histogram, errors, lost):
    """Pauses as the bound of the histogram that they are below."""
    pauses = [f"< {at_most(histogram, quantile):.0f} ms" for quantile in (0.5, 0.99)]
    table.append((what, str(sessions), str(moved), *pauses, errors, str(lost)))


@claim("while 12 clients work, cn-1 is drained and filled again, cn-2 leaves and joins: no client sees an error")
def _():
    setup = connect("app")
    query(setup, "CREATE OR REPLACE TABLE busy (client INT, n INT, PRIMARY KEY (client, n))")
    done, errors, over = [0] * 12, [], threading.Event()

    def work(client):
        try:
            connection = connect("acme:app?workload=tp")
            query(connection, f"SET @client = {client}")
            while not over.is_set():
                n = done[client] + 1
                query(connection, "BEGIN")
                query(connection, f"INSERT INTO busy VALUES (@client, {n})")
                query(connection, "COMMIT")
                read = one(connection, "SELECT COUNT(*) FROM busy WHERE client = @client")
                if read != n:
                    errors.append(f"client {client} reads {read} rows, not {n}")
                done[client] = n
            connection.close()
        except Exception as error:  # Each client counts its own.
            errors.append(f"client {client}: {error}")

    threads = [threading.Thread(target=work, args=(client,)) for client in range(12)]
    for thread in threads:
        thread.start()
    try:
        before, rounds = moves(), 0
        end = time.monotonic() + 40
        while moves() - before < 60 and time.monotonic() < end and not errors:
            name = f"cn-{rounds % 2 + 1}"
            shuntctl("cn", "drain", name, "--wait", "--timeout", "15s")
            if name == "cn-1":
                shuntctl("cn", "undrain", name)
            else:
                shuntctl("cn", "delete", name)
                shuntctl("cn", "register", name, f"127.0.0.1:{FIRST_CN_PORT + 1}", "--group", "tp")
            good, seen = until(lambda: (
                {cn["name"]: cn["sessions"] for cn in shuntctl("cn", "list")["cns"]}[name] >= 10, name))
            if not good:
                errors.append(f"{seen} does not fill")
            rounds += 1
    finally:
        over.set()
        for thread in threads:
            thread.join()
    query(setup, "SET wsrep_sync_wait = 1")
    total = one(setup, "SELECT COUNT(*) FROM busy")
    setup.close()
    moved = moves() - before
    good = not errors and rounds > 1 and moved >= 50 and total == sum(done) and all(done)
    pause = "shunt_data_move_pause_seconds"
    row("drained, joined", len(threads) + len(held), moved, pause, str(len(errors)), len(errors))
    return good, (f"{moved} moves in {rounds} rounds; {sum(done)} transactions, {total} rows, {len(errors)} errors "
                  f"{errors[:2] or ''}").strip()


def cluster(*arguments):
    subprocess.run([CLUSTER, *arguments, "--dir", CLUSTER_FOLDER], check=True, capture_output=True, timeout=120)


class Told(collections.Counter):
    """What clients were told by errors on connections that went on, by code; and what no client may be told."""

    def __init__(self):
        super().__init__()
        self.lost = []


def transfer_money(client, told, done, go, over):
    """Again where nothing took effect, never where nobody knows."""
    try:
        connection = connect("acme:app?workload=tp")
        go.wait(60)
        while not over.is_set():
            try:
                query(connection, "BEGIN")
                query(connection, f"UPDATE money SET balance = balance - 1 WHERE id = {client}")
                query(connection, f"UPDATE money SET balance = balance + 1 WHERE id = {(client + 1) % 12}")
                query(connection, "COMMIT")
                done[client] += 1
            except pymysql.err.MySQLError as error:
                if error.args[0] not in (1180, 1213):
                    raise
                told[error.args[0]] += 1
                query(connection, "ROLLBACK")
        connection.close()
    except Exception as error:  # Each client counts its own.
        told.lost.append(f"client {client}: {error}")


@claim("cn-2 is killed (kill -9) under 12 clients that transfer money: no connection and no money is lost")
def _():
    setup = connect("app")
    query(setup, "CREATE OR REPLACE TABLE money (id INT PRIMARY KEY, balance INT)")
    query(setup, "INSERT INTO money SELECT seq, 100 FROM seq_0_to_11")
    setup.close()
    told, done, go, over = Told(), [0] * 12, threading.Event(), threading.Event()
    idle = [connection for connection in held if connection.open]
    threads = [threading.Thread(target=transfer_money, args=(n, told, done, go, over)) for n in range(12)]
    for thread in threads:
        thread.start()
    try:
        # Each set its character set at its login, which its CN is asked for while it rests.
        until(lambda: (
            len(sessions := shuntctl("session", "list")["sessions"]) == len(idle) + len(threads)
            and all(session["settled"] for session in sessions), ""), 20)
        go.set()
        until(lambda: (min(done) > 3, done), 20)
        before = list(done)
        cluster("kill-node", "2")
        good, _ = until(lambda: (all(n > b + 3 for n, b in zip(done, before)), done), 30)
    finally:
        go.set()
        over.set()
        for thread in threads:
            thread.join()
    cluster("start-node", "2")
    answers = [one(connection, "SELECT 7") for connection in idle]
    total = one(idle[0], "SELECT SUM(balance) FROM money")
    back, _ = until(lambda: (all(cn["health"] == "up" for cn in shuntctl("cn", "list")["cns"]), ""), 60)
    outlived = metric("shunt_data_failovers_total")
    seen = ", ".join(f"{int(n)} {name.split(chr(34))[1]}" for name, n in outlived.items() if n)
    good = good and back and not told.lost and total == 1200 and all(answer == 7 for answer in answers)
    moved = sum(n for name, n in outlived.items() if "lost" not in name and "closed" not in name)
    errors = f"{told[1213]} x 1213, {told[1180]} x 1180"
    row("cn-2 killed", len(threads) + len(idle), int(moved), "shunt_data_failover_seconds", errors, len(told.lost))
    return good, (f"{sum(done)} transfers, {len(threads) + len(idle)} sessions; by what their clients saw of it: {seen}; "
                  f"{told[1213]} tried again, {told[1180]} unknown, {len(told.lost)} lost {told.lost[:2] or ''}; "
                  f"{total} of 1200 are there; cn-2 is back")


@claim("when the clients have gone, every count is 0")
def _():
    for connection in held:
        connection.close()

    def check():
        counts = {cn["name"]: cn["sessions"] for cn in shuntctl("cn", "list")["cns"]}
        truth = counted_by_the_cns()
        return not any(counts.values()) and not any(truth.values()), f"{shown(counts)}; the CNs: {shown(truth)}"

    return until(check)


widths = [max(len(cells[column]) for cells in table) for column in range(len(table[0]))]
print()
for cells in table:
    print("   ".join(cell.ljust(width) for cell, width in zip(cells, widths)).rstrip())
print()
print(f"{failed} of the claims FAIL" if failed else "all claims hold")
sys.exit(1 if failed else 0)
