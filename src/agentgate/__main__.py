"""`python -m agentgate` is `agentgate`."""

from agentgate.cli import main

if __name__ == "__main__":
    main()
