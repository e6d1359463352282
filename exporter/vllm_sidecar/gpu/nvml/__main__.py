"""Start of the process that calls NVML: `python -I -S .../nvml/__main__.py FD FOLDER...`.

FD is the file of the call page, FOLDER a folder with this package or nvidia-ml-py, which are not found without `site`.
"""

import sys

if __name__ == "__main__":
    sys.path += sys.argv[2:]
    from vllm_sidecar.gpu.nvml.worker import main

    main(int(sys.argv[1]))
