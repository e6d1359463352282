"""Start of the process that calls NVML: `python -I -S .../nvml/__main__.py FD FOLDER...`.

FD is the file of the call page, FOLDER where this package and nvidia-ml-py are: without `site` nobody else says so.
"""

import sys

if __name__ == "__main__":
    sys.path += sys.argv[2:]
    from vllm_sidecar.gpu.nvml.worker import main

    main(int(sys.argv[1]))
