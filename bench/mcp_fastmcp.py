"""fastmcp's proxy as its documentation has it, to be measured beside the gateway; run by the interpreter that has it.

mcp_fastmcp.py UPSTREAM-URL PORT
"""

import logging
import sys

from fastmcp.server import create_proxy

logging.getLogger("mcp").setLevel(logging.CRITICAL)  # wrk hangs up in the middle of things
create_proxy(sys.argv[1]).run(
    transport="http", port=int(sys.argv[2]), show_banner=False, log_level="error", uvicorn_config={"access_log": False}
)
