"""python -m minillama "Once upon a time": write a story in the terminal, word by word."""

import argparse
import os
import sys

from . import load, stream


def main():
    parser = argparse.ArgumentParser(prog="python -m minillama", description="Continue a text with a Llama in NumPy.")
    parser.add_argument("prompt", nargs="?", default="Once upon a time")
    parser.add_argument("--checkpoint", help="a folder in Hugging Face layout (default: the model that ships)")
    parser.add_argument("--temperature", type=float, default=0.8, help="0 is greedy (default: 0.8)")
    parser.add_argument("--top-p", type=float, default=1.0, help="sample from the likeliest tokens with this mass (default: 1)")
    parser.add_argument("--seed", type=int, help="the same seed writes the same story")
    parser.add_argument("--max-new-tokens", type=int, default=400)
    arguments = parser.parse_args()
    if hasattr(sys.stdout, "reconfigure"):
        sys.stdout.reconfigure(errors="replace")                               # a terminal without a character shows a question mark
    try:
        llama, tokenizer = load(arguments.checkpoint)
        pieces = stream(llama, tokenizer, arguments.prompt, max_new_tokens=arguments.max_new_tokens,
                        temperature=arguments.temperature, top_p=arguments.top_p, seed=arguments.seed)
        first = next(pieces, "")
        print(arguments.prompt + first, end="", flush=True)
        for piece in pieces:
            print(piece, end="", flush=True)
        print()
    except BrokenPipeError:                                                    # the reader, say `head`, has seen enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())         # for Python's last flush
    except (OSError, ValueError) as error:
        sys.exit(f"minillama: {error}")
    except KeyboardInterrupt:
        sys.exit(130)


if __name__ == "__main__":
    main()
