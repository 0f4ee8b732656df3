"""One implementation of one problem of `benchmarks.energies`, timed in its own process."""

import json
import sys

from benchmarks.energies import images, losses, samplers
from benchmarks.harness import serve

SECTIONS = {"samplers": samplers, "training": losses, "images": images}


def main() -> None:
    """Serves "section/implementation", named first, on the problem given second as JSON."""
    section, _, name = sys.argv[1].partition("/")
    module = SECTIONS[section]
    fields = json.loads(sys.argv[2]).items()
    problem = module.Problem(**{k: tuple(v) if isinstance(v, list) else v for k, v in fields})
    serve(module.implementations(problem)[name])


if __name__ == "__main__":
    main()
