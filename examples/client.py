"""Ten lines are a client: call a tool, and act on each verdict. Usage: python client.py [URL]"""

import sys

import httpx

gate = httpx.Client(base_url=sys.argv[1] if len(sys.argv) > 1 else "http://127.0.0.1:8000")


def call(tool: str, **arguments: object) -> None:
    answer = gate.post("/tools/call", json={"session_id": "example", "tool_name": tool, "arguments": arguments}).json()
    match answer["decision"], answer["success"]:
        case "ALLOW", True:
            print(f"{tool}: {answer['result']}")
        case "REQUIRE_APPROVAL", _:
            print(f"{tool}: waits for {answer['approval']['url']}; repeat the identical call once it is approved")
        case decision, _:
            print(f"{tool}: {decision} ({answer['reason_code']}): {answer['error']}")


call("db_query", query="SELECT id, name FROM products LIMIT 2")
call("db_insert", table="products", data={"name": "Gadget"})
call("no_such_tool")
