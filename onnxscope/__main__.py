"""`python -m onnxscope` is the command `onnxscope`."""

from onnxscope.cli.main import main

if __name__ == "__main__":
    main()
