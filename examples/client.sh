#!/bin/sh
# Each verdict with curl. Usage: client.sh [URL]; the last one needs the admin key in ADMIN_KEY.
url="${1:-http://127.0.0.1:8000}"
call() { curl -sS "$url/tools/call" -H 'Content-Type: application/json' -d "$1"; echo; }

call '{"session_id": "curl", "tool_name": "db_query", "arguments": {"query": "SELECT id, name FROM products LIMIT 2"}}'
call '{"session_id": "curl", "tool_name": "no_such_tool", "arguments": {}}'
call '{"session_id": "curl", "tool_name": "db_insert", "arguments": {"table": "products", "data": {"name": "Gadget"}}}'
[ -z "${ADMIN_KEY:-}" ] || curl -sS -X POST "$url/sessions/curl/kill" -H "X-API-Key: $ADMIN_KEY"
