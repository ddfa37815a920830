"""A server of MCP on stdio without the SDK: it starts in a moment, and lies as it is told to.

Run as a program: `python -I mcp_script.py [--modern | --both] [--list KIND] [--listens KIND] [--mute] [--stubborn]`.
What it was sent, the tool `seen` tells.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

ERA = "modern" if "--modern" in sys.argv else "both" if "--both" in sys.argv else "legacy"
LIST = sys.argv[sys.argv.index("--list") + 1] if "--list" in sys.argv else ""
LISTENS = sys.argv[sys.argv.index("--listens") + 1] if "--listens" in sys.argv else ""
INFO = {"name": "script", "version": "1"}
K_SUBSCRIPTION = "io.modelcontextprotocol/subscriptionId"

seen: list[dict[str, Any]] = []
asked: dict[Any, Any] = {}
listens: list[tuple[Any, dict[str, Any]]] = []
state: dict[str, Any] = {"number": 0, "suffix": "", "is_modern": False, "lists": 0}


def say(message: dict[str, Any]) -> None:
    sys.stdout.write(json.dumps({"jsonrpc": "2.0"} | message) + "\n")
    sys.stdout.flush()


def answer(request_id: Any, result: Any) -> None:
    if state["is_modern"] and isinstance(result, dict):
        result = {"resultType": "complete"} | result
    say({"id": request_id, "result": result})


def text(words: str, **more: Any) -> dict[str, Any]:
    return {"content": [{"type": "text", "text": words}], **more}


NAMES = ("echo", "bad", "endless", "seen", "env", "big", "progress", "log", "ask", "input", "spawn", "die", "change")
NAMES += ("slow_line", "raw", "shout", "structured", "nap")


def tool(name: str) -> dict[str, Any]:
    definition = {"name": name, "description": f"does {name}{state['suffix']}", "inputSchema": {"type": "object"}}
    if name == "structured":
        definition["outputSchema"] = {"type": "object", "properties": {"n": {"type": "integer"}}, "required": ["n"]}
    if name == "echo":
        definition["inputSchema"] = {
            "type": "object",
            "properties": {"region": {"type": "string", "x-mcp-header": "Region"}},
        }
    return definition


def page(params: dict[str, Any]) -> dict[str, Any]:
    state["lists"] += 1
    tools: list[Any] = [tool(name) for name in NAMES]
    if LIST == "circle":
        return {"tools": tools[:1], "nextCursor": "again"}
    if LIST == "endless":
        return {"tools": [], "nextCursor": str(state["lists"])}
    if LIST == "huge":
        return {"tools": [tool("echo") | {"description": "x" * 900_000}], "nextCursor": str(state["lists"])}
    if LIST == "odd":
        no_schema = {"name": "no_schema"}
        return {
            "tools": [*tools, 7, None, {"inputSchema": {}}, {"name": 3, "inputSchema": {}}, no_schema]
            + [{"name": "twice", "inputSchema": {}, "description": d} for d in "ab"]
            + [{"name": "n", "inputSchema": [1]}, {"name": "big", "inputSchema": {"maximum": 2**60}}]
        }
    if LIST == "no_list":
        return {"tools": "many"}
    if LIST == "pages":
        at = int(params.get("cursor", 0))
        return {"tools": tools[at : at + 5]} | ({"nextCursor": str(at + 5)} if at + 5 < len(tools) else {})
    return {"tools": tools}


CAPABILITIES = {
    "tools": {"listChanged": True},
    "resources": {"subscribe": True, "listChanged": True},
    "prompts": {"listChanged": True},
    "logging": {},
}


def changed(method: str, params: dict[str, Any]) -> None:
    if not state["is_modern"]:
        return say({"method": method, "params": params})
    for listen_id, wanted in listens:
        if method != "notifications/resources/updated" or params["uri"] in wanted.get("resourceSubscriptions", ()):
            say({"method": method, "params": params | {"_meta": {K_SUBSCRIPTION: listen_id}}})
    return None


def call(request_id: Any, params: dict[str, Any]) -> None:
    name, arguments, meta = params["name"], params.get("arguments", {}), params.get("_meta", {})
    if name == "bad":
        say({"id": request_id, "error": {"code": -32001, "message": "no such thing", "data": {"hint": 1}}})
    elif name == "endless":
        if "progressToken" in meta:
            token = meta["progressToken"]
            say({"method": "notifications/progress", "params": {"progressToken": token, "progress": 1}})
    elif name == "seen":
        answer(request_id, text("", structuredContent={"seen": seen}))
    elif name == "env":
        answer(request_id, text("", structuredContent={"env": dict(os.environ), "cwd": str(Path.cwd())}))
    elif name == "big":
        answer(request_id, text("x" * arguments["size"]))
    elif name == "progress":
        for n in (1, 2, 3):
            token = meta.get("progressToken")
            say({"method": "notifications/progress", "params": {"progressToken": token, "progress": n, "total": 3}})
        answer(request_id, text("done"))
    elif name == "log":
        say({"method": "notifications/message", "params": {"level": "info", "data": "a word"}})
        answer(request_id, text("logged"))
    elif name == "ask":
        state["number"] += 1
        asked[f"s{state['number']}"] = request_id
        say({"id": f"s{state['number']}", "method": arguments["method"], "params": arguments.get("params", {})})
    elif name == "input":
        if "inputResponses" in params:
            given = {"given": params["inputResponses"], "state": params.get("requestState")}
            return answer(request_id, text("", structuredContent=given))
        request = {"method": "elicitation/create", "params": {"message": "who?"}}
        say(
            {
                "id": request_id,
                "result": {"resultType": "input_required", "inputRequests": {"a": request}, "requestState": "st"},
            }
        )
    elif name == "spawn":
        child = subprocess.Popen(["sleep", "1000"], stdin=subprocess.DEVNULL)
        answer(request_id, text("", structuredContent={"pid": child.pid, "own": os.getpid()}))
    elif name == "die":
        os._exit(3)
    elif name == "change":
        state["suffix"] += "!"
        if not arguments.get("silently"):
            changed("notifications/tools/list_changed", {})
        answer(request_id, text("changed"))
    elif name == "slow_line":
        while True:
            sys.stdout.write("x" * 65_536)
    elif name == "nap":
        time.sleep(arguments["s"])
        answer(request_id, text("rested"))
    elif name == "raw":
        known = {"$ID": request_id, "$TOKEN": meta.get("progressToken")}
        for line in arguments["lines"]:
            said = line.replace("$SECRET", os.environ.get("SECRET", ""))
            for word, value in known.items():
                said = said.replace(word, json.dumps(value))
            sys.stdout.write(said + "\n")
            sys.stdout.flush()
            time.sleep(arguments.get("pause_s", 0))
    elif name == "shout":
        sys.stderr.write("a" * 10_000 + "\nplain words\n")
        sys.stderr.flush()
        for method in arguments.get("methods", []):
            changed(method, {"uri": "test://a"} if method.endswith("updated") else {})
        answer(request_id, text("shouted"))
    elif name == "structured":
        answer(
            request_id,
            text(
                "",
                structuredContent=arguments["content"],
                _meta={"io.modelcontextprotocol/serverInfo": INFO, "kept": 1},
            ),
        )
    else:
        answer(request_id, text("", structuredContent={"arguments": arguments, "meta": meta, "params": sorted(params)}))
    return None


def handle(message: dict[str, Any]) -> None:
    seen.append(message)
    method, request_id, params = message.get("method"), message.get("id"), message.get("params") or {}
    if method is None:
        call_id = asked.pop(request_id, None)
        if call_id is not None:
            told = {"result": message.get("result"), "error": message.get("error")}
            answer(call_id, text("", structuredContent=told))
    elif method == "server/discover" and ERA != "legacy":
        state["is_modern"] = True
        found = {"supportedVersions": ["2026-07-28"], "capabilities": CAPABILITIES, "ttlMs": 0, "cacheScope": "private"}
        answer(request_id, found | {"_meta": {"io.modelcontextprotocol/serverInfo": INFO}})
    elif method == "initialize" and ERA != "modern":
        answer(request_id, {"protocolVersion": "2025-11-25", "capabilities": CAPABILITIES, "serverInfo": INFO})
    elif method == "initialize":
        say(
            {
                "id": request_id,
                "error": {
                    "code": -32022,
                    "message": "no",
                    "data": {"supported": ["2026-07-28"], "requested": "2025-11-25"},
                },
            }
        )
    elif method == "tools/list":
        answer(request_id, page(params))
    elif method == "tools/call":
        call(request_id, params)
    elif method == "subscriptions/listen" and LISTENS != "never":
        if LISTENS == "to_others":
            wanted = params["notifications"].get("resourceSubscriptions", [])
            params["notifications"]["resourceSubscriptions"] = [uri for uri in wanted if uri != "test://a"]
        listens.append((request_id, params["notifications"]))
        say(
            {
                "method": "notifications/subscriptions/acknowledged",
                "params": {"_meta": {K_SUBSCRIPTION: request_id}, "notifications": params["notifications"]},
            }
        )
    elif method in ("resources/subscribe", "resources/unsubscribe", "logging/setLevel"):
        answer(request_id, {})
    elif method == "resources/read":
        answer(request_id, {"contents": [{"uri": params["uri"], "text": "read"}]})
    elif request_id is not None:
        say({"id": request_id, "error": {"code": -32601, "message": "Method not found"}})


def main() -> None:
    if "--mute" in sys.argv:
        time.sleep(1000)
    for line in sys.stdin:
        handle(json.loads(line))
    if "--stubborn" in sys.argv:
        time.sleep(1000)


if __name__ == "__main__":
    main()
