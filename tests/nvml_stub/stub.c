/* A libnvidia-ml.so.1 without a GPU: it answers as a script tells it, so that tests can produce what real drivers do.
 *
 * The script is the file named by NVML_STUB_SCRIPT; it is read again whenever it changes. One setting a line:
 *
 *   gpus 8                         number of GPUs (default 1)
 *   model h100                     h100 (default), a100 or gb10: what these support and say
 *   mig 2                          MIG is on, with so many instances on each GPU
 *   version 580.95.05              of the driver
 *   power 650000                   a raw value, in NVML's unit, of every GPU; `3.power 90000` of GPU 3 only
 *   energy_flow 600000             milliwatts by which the energy counter grows as time passes (default 0)
 *   process 4711                   a process that computes there
 *   process_race 1                 the first list of processes is too short
 *   field.230 2                    a value of nvmlDeviceGetFieldValues
 *   ret.nvmlInitWithFlags 18       what a function returns; `3.ret.NAME 15` for GPU 3 only
 *   fieldret.186 3                 the nvmlReturn of one field value
 *   hang.nvmlDeviceGetName 1       the function does not return as long as this line is there; also `3.hang.NAME`
 *   crash.nvmlDeviceGetName 1      the function faults; also `3.crash.NAME`
 *   exit.nvmlDeviceGetName 7       the function ends the process with this code
 *   print.nvmlDeviceGetName text   the function writes a line to standard output and standard error
 *   event 3 8 79                   an event for GPU 3: type, data, and optionally GPU and compute instance
 *
 * Initialisations and shutdowns are written to the script's name with .log at its end.
 */
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>
#include <pthread.h>

#define MOST_GPUS 16
#define MOST_LINES 512
#define MOST_EVENTS 256
enum { OK = 0, UNINITIALIZED = 1, INVALID = 2, NOT_SUPPORTED = 3, NOT_FOUND = 6, TOO_SMALL = 7, TIMEOUT = 10, OLD = 13 };

typedef struct { char key[64]; char text[96]; } line_t;
typedef struct { int gpu; unsigned long long type, data; unsigned gi, ci; } event_t;
typedef struct device { int gpu; int mig; } device_t; /* mig: -1 for the GPU itself */

static line_t lines[MOST_LINES];
static int line_count, event_count, delivered, initialised;
static event_t events[MOST_EVENTS];
static unsigned long long registered[MOST_GPUS];
static device_t devices[MOST_GPUS][9];
static struct timespec script_time;
static off_t script_size = -1;
static ino_t script_file;
static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;

static void load(void) {
    const char *path = getenv("NVML_STUB_SCRIPT");
    struct stat found;
    char text[256];
    FILE *file;
    if (!path || stat(path, &found)) { line_count = 0; return; }
    if (found.st_ino == script_file && found.st_size == script_size && found.st_mtim.tv_sec == script_time.tv_sec &&
        found.st_mtim.tv_nsec == script_time.tv_nsec) return;
    if (!(file = fopen(path, "r"))) return;
    script_file = found.st_ino;
    script_size = found.st_size;
    script_time = found.st_mtim;
    line_count = event_count = 0;
    while (fgets(text, sizeof text, file)) {
        event_t event = {0, 0, 0, 0xFFFFFFFFu, 0xFFFFFFFFu};
        if (sscanf(text, "event %d %llx %llu %u %u", &event.gpu, &event.type, &event.data, &event.gi, &event.ci) >= 3) {
            if (event_count < MOST_EVENTS) events[event_count++] = event;
        } else if (line_count < MOST_LINES &&
                   sscanf(text, "%63s %95[^\n]", lines[line_count].key, lines[line_count].text) == 2) {
            line_count++;
        }
    }
    fclose(file);
}

/* The last line with this key: of the GPU, else of all. */
static const char *find(int gpu, const char *prefix, const char *name) {
    char own[96], all[96];
    const char *found = NULL;
    snprintf(all, sizeof all, "%s%s", prefix, name);
    snprintf(own, sizeof own, "%d.%s", gpu, all);
    pthread_mutex_lock(&lock);
    load();
    for (int i = 0; i < line_count; i++)
        if (!strcmp(lines[i].key, all)) found = lines[i].text;
    if (gpu >= 0)
        for (int i = 0; i < line_count; i++)
            if (!strcmp(lines[i].key, own)) found = lines[i].text;
    pthread_mutex_unlock(&lock);
    return found;
}

static unsigned long long value(int gpu, const char *name, unsigned long long usual) {
    const char *text = find(gpu, "", name);
    return text ? strtoull(text, NULL, 0) : usual;
}

static int model(const char *name) {
    const char *text = find(-1, "", "model");
    return !strcmp(text ? text : "h100", name);
}

static int gpu_count(void) {
    int count = (int)value(-1, "gpus", 1);
    return count < MOST_GPUS ? count : MOST_GPUS;
}

/* What every function does first: hang, fault, or return what the script says; -1 to go on. */
static int enter(const char *name, int gpu) {
    const char *text;
    struct timespec nap = {0, 20000000};
    if ((text = find(gpu, "print.", name))) {
        printf("%s\n", text);
        fflush(stdout);
        fprintf(stderr, "%s\n", text);
    }
    while (find(gpu, "hang.", name)) nanosleep(&nap, NULL);
    if (find(gpu, "crash.", name)) *(volatile int *)0 = 1;
    if ((text = find(gpu, "exit.", name))) _exit(atoi(text));
    if ((text = find(gpu, "ret.", name))) return atoi(text);
    if (gpu >= 0 && (text = find(gpu, "", "ret"))) return atoi(text);
    return -1;
}

#define ENTER(gpu)                                  \
    do {                                            \
        int ret_ = enter(__func__, gpu);            \
        if (ret_ >= 0) return ret_;                 \
        if (!initialised) return UNINITIALIZED;     \
    } while (0)
#define WHOLE(device) if ((device)->mig >= 0) return NOT_SUPPORTED

/* One line for each initialisation and shutdown, beside the script. */
static void tell(const char *what) {
    char path[512];
    FILE *file;
    snprintf(path, sizeof path, "%s.log", getenv("NVML_STUB_SCRIPT") ? getenv("NVML_STUB_SCRIPT") : "/dev/null");
    if ((file = fopen(path, "a"))) {
        fprintf(file, "%s\n", what);
        fclose(file);
    }
}

int nvmlInitWithFlags(unsigned flags) {
    int ret = enter(__func__, -1);
    (void)flags;
#ifdef STUB_INIT
    return STUB_INIT;
#endif
    if (ret >= 0) return ret;
    for (int i = 0; i < MOST_GPUS; i++)
        for (int j = 0; j < 9; j++) devices[i][j] = (device_t){i, j - 1};
    initialised++;
    tell("init");
    return OK;
}
int nvmlShutdown(void) { ENTER(-1); initialised--; tell("shutdown"); return OK; }
const char *nvmlErrorString(int code) { static char text[32]; snprintf(text, sizeof text, "error %d", code); return text; }

static int text_of(char *out, unsigned size, const char *text) {
    if (strlen(text) >= size) return TOO_SMALL;
    strcpy(out, text);
    return OK;
}
int nvmlSystemGetDriverVersion(char *out, unsigned size) {
    const char *text = find(-1, "", "version");
    ENTER(-1);
    return text_of(out, size, text ? text : "580.95.05");
}
int nvmlSystemGetNVMLVersion(char *out, unsigned size) { ENTER(-1); return text_of(out, size, "13.580.95.05"); }

int nvmlDeviceGetCount_v2(unsigned *count) { ENTER(-1); *count = gpu_count(); return OK; }
int nvmlDeviceGetHandleByIndex_v2(unsigned index, device_t **device) {
    ENTER((int)index);
    if ((int)index >= gpu_count()) return INVALID;
    *device = &devices[index][0];
    return OK;
}
static void uuid_of(const device_t *device, char *out, unsigned size) {
    const char *text = find(device->gpu, "", "uuid");
    if (device->mig >= 0) snprintf(out, size, "MIG-%08d-0000-0000-0000-%012d", device->gpu, device->mig);
    else if (text) snprintf(out, size, "%s", text);
    else snprintf(out, size, "GPU-%08d-0000-0000-0000-000000000000", device->gpu);
}
int nvmlDeviceGetHandleByUUID(const char *uuid, device_t **device) {
    char own[96];
    ENTER(-1);
    for (int i = 0; i < gpu_count(); i++)
        for (int j = 0; j < 9; j++) {
            uuid_of(&devices[i][j], own, sizeof own);
            if (!strcmp(own, uuid)) {
                *device = &devices[i][j];
                ENTER(i);
                return OK;
            }
        }
    return NOT_FOUND;
}
int nvmlDeviceGetUUID(device_t *device, char *out, unsigned size) {
    ENTER(device->gpu);
    uuid_of(device, out, size);
    return OK;
}
int nvmlDeviceGetName(device_t *device, char *out, unsigned size) {
    ENTER(device->gpu);
    return text_of(out, size, device->mig >= 0 ? "NVIDIA H100 80GB HBM3 MIG 3g.40gb"
                   : model("a100") ? "NVIDIA A100-SXM4-80GB" : model("gb10") ? "NVIDIA GB10" : "NVIDIA H100 80GB HBM3");
}
int nvmlDeviceGetCudaComputeCapability(device_t *device, int *major, int *minor) {
    ENTER(device->gpu);
    *major = model("a100") ? 8 : model("gb10") ? 12 : 9;
    *minor = model("gb10");
    return OK;
}
struct pci { char legacy[16]; unsigned domain, bus, device, id, subsystem; char text[32]; };
int nvmlDeviceGetPciInfo_v3(device_t *device, struct pci *out) {
    ENTER(device->gpu);
    WHOLE(device);
    memset(out, 0, sizeof *out);
    snprintf(out->text, sizeof out->text, "00000000:%02X:00.0", 0x10 + device->gpu);
    return OK;
}

struct rates { unsigned gpu, memory; };
int nvmlDeviceGetUtilizationRates(device_t *device, struct rates *out) {
    ENTER(device->gpu);
    WHOLE(device);
    if (value(-1, "mig", 0)) return NOT_SUPPORTED;
    out->gpu = value(device->gpu, "utilization", 97);
    out->memory = 61;
    return OK;
}
struct memory1 { unsigned long long total, free, used; };
struct memory2 { unsigned version; unsigned long long total, reserved, free, used; };
int nvmlDeviceGetMemoryInfo_v2(device_t *device, struct memory2 *out) {
    ENTER(device->gpu);
    if (model("gb10")) return NOT_SUPPORTED;
    out->total = value(device->gpu, "memory_total", 85520809984ull) / (device->mig >= 0 ? 2 : 1);
    out->reserved = value(device->gpu, "memory_reserved", 555745280ull);
    out->used = value(device->gpu, "memory_used", 76000000000ull) / (device->mig >= 0 ? 2 : 1);
    out->free = out->total - out->reserved - out->used;
    return OK;
}
int nvmlDeviceGetMemoryInfo(device_t *device, struct memory1 *out) {
    ENTER(device->gpu);
    if (model("gb10")) return NOT_SUPPORTED;
    out->total = value(device->gpu, "memory_total", 85520809984ull);
    out->used = value(device->gpu, "memory_used", 76000000000ull) + value(device->gpu, "memory_reserved", 555745280ull);
    out->free = out->total - out->used;
    return OK;
}

#define NUMBER(name, key, type, usual)                        \
    int name(device_t *device, type *out) {                   \
        ENTER(device->gpu);                                   \
        WHOLE(device);                                        \
        *out = (type)value(device->gpu, key, usual);          \
        return OK;                                            \
    }
NUMBER(nvmlDeviceGetPowerUsage, "power", unsigned, 612000)
int nvmlDeviceGetTotalEnergyConsumption(device_t *device, unsigned long long *out) {
    struct timespec now;
    ENTER(device->gpu);
    WHOLE(device);
    clock_gettime(CLOCK_MONOTONIC, &now);
    *out = value(device->gpu, "energy", 123456789ull);
    *out += value(device->gpu, "energy_flow", 0) * (now.tv_sec * 1000ull + now.tv_nsec / 1000000) / 1000;
    return OK;
}
NUMBER(nvmlDeviceGetCurrentClocksEventReasons, "throttle", unsigned long long, 4)
NUMBER(nvmlDeviceGetCurrentClocksThrottleReasons, "throttle", unsigned long long, 4)
NUMBER(nvmlDeviceGetCurrPcieLinkGeneration, "pcie_generation", unsigned, model("gb10") ? 1 : 5)
NUMBER(nvmlDeviceGetMaxPcieLinkGeneration, "pcie_generation_max", unsigned, 5)
NUMBER(nvmlDeviceGetCurrPcieLinkWidth, "pcie_width", unsigned, model("gb10") ? 1 : 16)
NUMBER(nvmlDeviceGetMaxPcieLinkWidth, "pcie_width_max", unsigned, 16)

int nvmlDeviceGetEnforcedPowerLimit(device_t *device, unsigned *out) {
    ENTER(device->gpu);
    WHOLE(device);
    if (model("gb10")) return NOT_SUPPORTED;
    *out = value(device->gpu, "power_limit", 700000);
    return OK;
}
int nvmlDeviceGetClockInfo(device_t *device, int type, unsigned *out) {
    ENTER(device->gpu);
    WHOLE(device);
    *out = type == 1 ? value(device->gpu, "sm_clock", 1755) : value(device->gpu, "memory_clock", 2619);
    return OK;
}
int nvmlDeviceGetMaxClockInfo(device_t *device, int type, unsigned *out) {
    ENTER(device->gpu);
    WHOLE(device);
    *out = type == 1 ? value(device->gpu, "sm_clock_max", 1980) : value(device->gpu, "memory_clock_max", 2619);
    return OK;
}
int nvmlDeviceGetTemperature(device_t *device, int sensor, unsigned *out) {
    ENTER(device->gpu);
    WHOLE(device);
    (void)sensor;
    *out = value(device->gpu, "temperature", 63);
    return OK;
}
struct temperature { unsigned version; int sensor, celsius; };
int nvmlDeviceGetTemperatureV(device_t *device, struct temperature *out) {
    ENTER(device->gpu);
    WHOLE(device);
    out->celsius = (int)value(device->gpu, "temperature", 63);
    return OK;
}
struct margin { unsigned version; int celsius; };
int nvmlDeviceGetMarginTemperature(device_t *device, struct margin *out) {
    ENTER(device->gpu);
    WHOLE(device);
    if (model("a100")) return OLD;
    out->celsius = (int)(long long)value(device->gpu, "margin", 24);
    return OK;
}
struct violation { unsigned long long reference, nanoseconds; };
int nvmlDeviceGetViolationStatus(device_t *device, int policy, struct violation *out) {
    ENTER(device->gpu);
    WHOLE(device);
    if (policy > 1) return NOT_SUPPORTED;
    out->reference = 0;
    out->nanoseconds = value(device->gpu, policy ? "violation_thermal" : "violation_power", 1500000000ull);
    return OK;
}
int nvmlDeviceGetTotalEccErrors(device_t *device, int error, int counter, unsigned long long *out) {
    static const char *const names[2][2] = {{"ecc_vc", "ecc_ac"}, {"ecc_vu", "ecc_au"}};
    ENTER(device->gpu);
    WHOLE(device);
    if (model("gb10")) return NOT_SUPPORTED;
    *out = value(device->gpu, names[error][counter], 0);
    return OK;
}
int nvmlDeviceGetRemappedRows(device_t *device, unsigned *cor, unsigned *unc, unsigned *pending, unsigned *failure) {
    ENTER(device->gpu);
    WHOLE(device);
    if (model("gb10")) return NOT_SUPPORTED;
    *cor = value(device->gpu, "remap_cor", 0);
    *unc = value(device->gpu, "remap_unc", 0);
    *pending = value(device->gpu, "remap_pending", 0);
    *failure = value(device->gpu, "remap_failure", 0);
    return OK;
}
int nvmlDeviceGetNvLinkState(device_t *device, unsigned link, unsigned *active) {
    ENTER(device->gpu);
    WHOLE(device);
    if (model("gb10")) return NOT_SUPPORTED;
    if (link >= (model("a100") ? 12u : 18u)) return INVALID;
    *active = link < value(device->gpu, "links_active", 18);
    return OK;
}
struct fabric { unsigned version; unsigned char cluster[16]; int status; unsigned clique; unsigned char state; unsigned health; unsigned char summary; };
int nvmlDeviceGetGpuFabricInfoV(device_t *device, struct fabric *out) {
    ENTER(device->gpu);
    WHOLE(device);
    if (!model("h100")) return NOT_SUPPORTED;
    out->status = 0;
    out->state = value(device->gpu, "fabric_state", 3);
    out->health = value(device->gpu, "fabric_health", 0xAA);
    out->summary = 1;
    return OK;
}

/* Fields: value, and which models lack it (1 h100, 2 a100, 4 gb10). */
struct field { unsigned id; unsigned long long usual; int lack; };
static const struct field fields[] = {
    {186, 612000, 2}, {185, 600000, 2}, {189, 700000, 4}, {82, 71, 4}, {74, 5000000000ull, 0}, {269, 0, 2},
    {270, 0, 2}, {271, 0, 2}, {31, 0, 5}, {230, 0, 2}, {91, 18, 4}, {94, 0, 0},
    {197, 4096000, 2}, {198, 8192000, 2}, {138, 1024, 4}, {139, 2048, 4}, {38, 0, 4}, {45, 0, 4}, {52, 0, 4},
    {59, 0, 4}, {206, 0, 6}, {207, 0, 6}, {208, 0, 6}, {211, 0, 6}, {212, 0, 6}, {213, 0, 6}, {214, 0, 6},
    {219, 0, 6}, {221, 0, 6},
};
struct field_value { unsigned id, scope; int64_t time, latency; unsigned type; int ret; union { double d; unsigned long long u; } value; };
int nvmlDeviceGetFieldValues(device_t *device, int count, struct field_value *out) {
    int lacking = model("h100") ? 1 : model("a100") ? 2 : 4;
    ENTER(device->gpu);
    WHOLE(device);
    for (int i = 0; i < count; i++) {
        char name[32];
        const char *text;
        snprintf(name, sizeof name, "%u", out[i].id);
        out[i].ret = NOT_SUPPORTED;
        out[i].type = 3;
        out[i].value.u = 0;
        for (unsigned j = 0; j < sizeof fields / sizeof *fields; j++)
            if (fields[j].id == out[i].id && !(fields[j].lack & lacking)) {
                out[i].ret = OK;
                out[i].value.u = out[i].id == 91 && lacking == 2 ? 12 : fields[j].usual;
            }
        if ((text = find(device->gpu, "field.", name))) {
            out[i].ret = OK;
            out[i].value.u = strtoull(text, NULL, 0);
        }
        if ((text = find(device->gpu, "fieldret.", name))) out[i].ret = atoi(text);
    }
    return OK;
}

static int raced;
struct process { unsigned pid; unsigned long long memory; unsigned gi, ci; };
int nvmlDeviceGetComputeRunningProcesses_v3(device_t *device, unsigned *count, struct process *out) {
    const char *text;
    ENTER(device->gpu);
    if (out && find(device->gpu, "", "process_race") && !raced++) return TOO_SMALL;
    if (!(text = find(device->gpu, "", "process"))) { *count = 0; return OK; }
    if (!out || !*count) { *count = 1; return TOO_SMALL; }
    *count = 1;
    *out = (struct process){(unsigned)atoi(text), 70000000000ull, ~0u, ~0u};
    return OK;
}

int nvmlDeviceGetMigMode(device_t *device, unsigned *current, unsigned *pending) {
    ENTER(device->gpu);
    WHOLE(device);
    if (model("gb10")) return NOT_SUPPORTED;
    *current = *pending = value(-1, "mig", 0) > 0;
    return OK;
}
int nvmlDeviceGetMaxMigDeviceCount(device_t *device, unsigned *count) { ENTER(device->gpu); *count = 7; return OK; }
int nvmlDeviceGetMigDeviceHandleByIndex(device_t *device, unsigned index, device_t **out) {
    ENTER(device->gpu);
    if (index >= value(-1, "mig", 0) || index >= 8) return NOT_FOUND;
    *out = &devices[device->gpu][index + 1];
    return OK;
}
int nvmlDeviceGetGpuInstanceId(device_t *device, unsigned *id) {
    ENTER(device->gpu);
    if (device->mig < 0) return INVALID;
    *id = device->mig + 1;
    return OK;
}

/* GPU performance metrics: a sample is a place that nothing needs to be written to. */
struct support { unsigned version, supported; };
int nvmlGpmQueryDeviceSupport(device_t *device, struct support *out) {
    ENTER(device->gpu);
    out->supported = model("h100");
    return OK;
}
int nvmlGpmSampleAlloc(int **sample) { ENTER(-1); *sample = calloc(1, sizeof **sample); return OK; }
int nvmlGpmSampleFree(int *sample) { ENTER(-1); free(sample); return OK; }
int nvmlGpmSampleGet(device_t *device, int *sample) { ENTER(device->gpu); *sample = device->gpu + 1; return OK; }
int nvmlGpmMigSampleGet(device_t *device, unsigned instance, int *sample) {
    ENTER(device->gpu);
    (void)instance;
    *sample = device->gpu + 1;
    return OK;
}
struct metric { unsigned id; int ret; double value; const char *names[3]; };
struct metrics { unsigned version, count; int *first, *second; struct metric metrics[]; };
int nvmlGpmMetricsGet(struct metrics *out) {
    int gpu = *out->second - 1;
    ENTER(gpu);
    for (unsigned i = 0; i < out->count; i++) {
        char name[16];
        snprintf(name, sizeof name, "gpm.%u", out->metrics[i].id);
        out->metrics[i].ret = OK;
        out->metrics[i].value = (double)value(gpu, name, out->metrics[i].id * 10);
    }
    return OK;
}

/* Events: those that come after the set was made, for GPUs that are registered. */
static int a_set;
int nvmlEventSetCreate(int **set) {
    ENTER(-1);
    find(-1, "", "");
    delivered = event_count;
    memset(registered, 0, sizeof registered);
    *set = &a_set;
    return OK;
}
int nvmlEventSetFree(int *set) { ENTER(-1); (void)set; return OK; }
int nvmlDeviceGetSupportedEventTypes(device_t *device, unsigned long long *types) {
    ENTER(device->gpu);
    *types = value(device->gpu, "event_types", model("gb10") ? 8 : 0xFE0B);
    return OK;
}
int nvmlDeviceRegisterEvents(device_t *device, unsigned long long types, int *set) {
    ENTER(device->gpu);
    (void)set;
    if (types & ~value(device->gpu, "event_types", model("gb10") ? 8 : 0xFE0B)) return NOT_SUPPORTED;
    registered[device->gpu] = types;
    return OK;
}
struct event_data { device_t *device; unsigned long long type, data; unsigned gi, ci; };
int nvmlEventSetWait_v2(int *set, struct event_data *out, unsigned milliseconds) {
    struct timespec nap = {0, 10000000};
    (void)set;
    ENTER(-1);
    for (unsigned waited = 0; waited <= milliseconds; waited += 10) {
        find(-1, "", "");
        while (delivered < event_count) {
            event_t *event = &events[delivered++];
            if (event->gpu < MOST_GPUS && registered[event->gpu] & event->type) {
                *out = (struct event_data){&devices[event->gpu][0], event->type, event->data, event->gi, event->ci};
                return OK;
            }
        }
        nanosleep(&nap, NULL);
    }
    return TIMEOUT;
}
