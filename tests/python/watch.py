"""Asks a Prometheus, as its users do; and makes figures for it to see.

    watch.py fill ADDRESS COUNT       so many commits, each of which is read again
    watch.py queries URL DASHBOARD    each query of the dashboard: how many series answer it, as JSON
    watch.py rules URL                the state of each alert, as JSON
    watch.py up URL                   how many targets are scraped, as JSON
    watch.py names FILE...            the names of figures in dashboards and rules, as JSON
"""
import json
import re
import sys
import urllib.parse
import urllib.request


def fill(address, count):
    import common

    with common.database(address) as db, common.connection(db) as connection:
        for number in range(int(count)):
            connection.root()["filled"] = number
            connection.transaction_manager.commit()
    return int(count)


def ask(url, path, **query):
    address = f"{url}/api/v1/{path}?{urllib.parse.urlencode(query)}"
    try:
        with urllib.request.urlopen(address, timeout=20) as answer:
            answer = json.load(answer)
    except urllib.error.HTTPError as error:
        raise SystemExit(f"{address}: {error.read().decode()}")
    assert answer["status"] == "success", answer
    return answer["data"]


def expressions(dashboard):
    with open(dashboard) as text:
        panels = json.load(text)["panels"]
    return [(panel["title"], target["expr"]) for panel in panels for target in panel["targets"]]


def queries(url, dashboard):
    found = {}
    for title, expression in expressions(dashboard):
        # What Grafana puts in for variables of several values, all of them chosen.
        for name, value in (("$array", ".*"), ("$instance", ".*"), ("$__rate_interval", "1m")):
            expression = expression.replace(name, value)
        assert "$" not in expression, expression
        found[f"{title}: {expression}"] = len(ask(url, "query", query=expression)["result"])
    return found


def rules(url):
    groups = ask(url, "rules")["groups"]
    found = {}
    for rule in (rule for group in groups for rule in group["rules"]):
        assert rule["health"] in ("ok", "unknown"), rule
        found[rule["name"]] = {
            "state": rule["state"],
            "health": rule["health"],
            "labels": [alert["labels"] for alert in rule["alerts"]],
            "texts": [alert["annotations"] for alert in rule["alerts"]],
        }
    return found


def up(url):
    targets = ask(url, "targets")["activeTargets"]
    return len([target for target in targets if target["health"] == "up"])


def names(*files):
    found = set()
    for file in files:
        with open(file) as text:
            found.update(re.findall(r"\bzeoraid_[a-z_]+", text.read()))
    return sorted(found)


if __name__ == "__main__":
    print(json.dumps(globals()[sys.argv[1]](*sys.argv[2:])))
