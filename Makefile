# make          ./run and export/export            make test    the tests, in about a minute
# make check    tests under gcc and clang with ASan and UBSan       make bench   speed
# make fuzz     fuzz targets with libFuzzer, in build/fuzz (doc/SECURITY.md)
# make soak     long runs in one process, and a fault at every call; some minutes
# make cross    builds for other machines and runs there, as far as compilers and emulators are here
# make clean    OPENMP=0 builds without threads; CC, CFLAGS, BUILD as usual
CC      ?= cc
CFLAGS  ?= -O3 -g
BUILD   ?= build
comma   := ,
MACHINE := $(shell $(CC) -dumpmachine)
links    = $(shell echo 'int main(void){return 0;}' | $(CC) $(1) -x c - -o /dev/null 2>/dev/null && echo $(1))
# Threads come with -fopenmp, or with -pthread where there is no OpenMP.
ifeq ($(origin OPENMP),undefined)
OPENMP  := $(if $(findstring wasi,$(MACHINE)),0,$(or $(call links,-fopenmp),$(call links,-pthread),0))
endif
WARN     = -Wall -Wextra -Wshadow
ALL_CFLAGS = -std=gnu11 -ffp-contract=off $(CFLAGS) $(WARN) -MMD -MP $(SYSTEM) \
           $(if $(filter 0,$(OPENMP)),-Wno-unknown-pragmas,$(patsubst 1,-fopenmp,$(OPENMP)))
LDLIBS   = -lm
# Windows: C99's printf, and one file without DLLs beside it.
ifneq ($(findstring mingw,$(MACHINE)),)
SYSTEM   = -D__USE_MINGW_ANSI_STDIO=1
LDLIBS  += -static
endif
# WebAssembly: files are read into memory, there are no signals, and the stack is 1 MB instead of 64 KB.
ifneq ($(findstring wasi,$(MACHINE)),)
SYSTEM   = -D_WASI_EMULATED_MMAN -D_WASI_EMULATED_SIGNAL
LDLIBS  += -lwasi-emulated-mman -lwasi-emulated-signal -Wl,-z,stack-size=1048576
endif

ENGINE  = $(wildcard core/*.c) tucker.c model.c tokenizer.c
EXPORT  = $(filter-out export/export.c,$(wildcard export/*.c))
TOOLS   = $(wildcard tools/*.c)
TESTS  := $(filter-out $(if $(call links,-Wl$(comma)--wrap=malloc),,tests/test_faults.c),$(wildcard tests/test_*.c))
FUZZ    = $(filter-out tests/fuzz_main.c,$(wildcard tests/fuzz_*.c))
SCRIPTS = $(wildcard tests/test_*.sh)
obj     = $(patsubst %.c,$(BUILD)/%.o,$(1))
TEST_BIN = $(patsubst tests/%.c,$(BUILD)/tests/%,$(TESTS) $(FUZZ))

all: run export/export
run: $(BUILD)/run
	@cp $< $@
export/export: $(BUILD)/export/export
	@cp $< $@

$(BUILD)/%.o: %.c
	@mkdir -p $(@D)
	$(CC) $(ALL_CFLAGS) -c $< -o $@
$(BUILD)/tests/%: $(BUILD)/tests/%.o $(call obj,$(EXPORT) $(TOOLS) $(ENGINE))
	$(CC) $(ALL_CFLAGS) $(LDFLAGS) $^ $(LDLIBS) -o $@
# The two programs with calls of libc that fail when they are told to.
WRAPPED = malloc calloc realloc posix_memalign strdup strndup fopen open_memstream opendir mmap \
          fsync rename fwrite fseeko fflush
$(BUILD)/tests/main_%.o: %.c
	@mkdir -p $(@D)
	$(CC) $(ALL_CFLAGS) -Dmain=$*_main -c $< -o $@
$(BUILD)/tests/main_%.o: export/%.c
	@mkdir -p $(@D)
	$(CC) $(ALL_CFLAGS) -Dmain=$*_main -c $< -o $@
$(BUILD)/tests/test_faults: override LDFLAGS += $(addprefix -Wl$(comma)--wrap=,$(WRAPPED))
$(BUILD)/tests/test_faults: $(BUILD)/tests/main_run.o $(BUILD)/tests/main_export.o
# A fuzz target that replays files, and with libFuzzer.
$(BUILD)/tests/fuzz_%: $(BUILD)/tests/fuzz_%.o $(BUILD)/tests/fuzz_main.o $(call obj,$(EXPORT) $(TOOLS) $(ENGINE))
	$(CC) $(ALL_CFLAGS) $(LDFLAGS) $^ $(LDLIBS) -o $@
$(BUILD)/fuzz_%: $(BUILD)/tests/fuzz_%.o $(call obj,$(EXPORT) $(TOOLS) $(ENGINE))
	$(CC) $(ALL_CFLAGS) -fsanitize=fuzzer $^ $(LDLIBS) -o $@
fuzz:
	@$(MAKE) -s BUILD=build/fuzz CC=clang OPENMP=0 CFLAGS="$(SANITIZE) -fsanitize=fuzzer-no-link" fuzzers
corpus: $(BUILD)/tests/make_corpus
	@$<
soak: $(BUILD)/tests/test_soak $(BUILD)/tests/test_faults
	@SOAK=50 $(BUILD)/tests/test_soak
	@FAULTS=100000 $(BUILD)/tests/test_faults
fuzzers: $(patsubst tests/%.c,$(BUILD)/%,$(FUZZ))

test: all $(TEST_BIN)
	@tests/run.sh $(TEST_BIN) $(SCRIPTS)
# The tests again under each compiler with AddressSanitizer and UndefinedBehaviorSanitizer.
SANITIZE = -O1 -g1 -fsanitize=address,undefined -fno-sanitize-recover=all -fno-omit-frame-pointer
CHECK    ?= gcc clang
check:
	@for cc in $(CHECK); do command -v $$cc >/dev/null || { echo "no $$cc here"; continue; }; \
	    $(MAKE) -s BUILD=build/$$cc-asan CC=$$cc OPENMP=0 CFLAGS="$(SANITIZE)" sanitized || exit 1; done
sanitized: $(TEST_BIN) $(BUILD)/run $(BUILD)/export/export
	@RUN=$(BUILD)/run EXPORT=$(BUILD)/export/export tests/run.sh $(TEST_BIN) $(filter-out tests/test_house.sh,$(SCRIPTS))
$(BUILD)/run: $(call obj,run.c $(TOOLS) $(ENGINE))
	$(CC) $(ALL_CFLAGS) $(LDFLAGS) $^ $(LDLIBS) -o $@
$(BUILD)/export/export: $(call obj,export/export.c $(EXPORT) $(ENGINE))
	$(CC) $(ALL_CFLAGS) $(LDFLAGS) $^ $(LDLIBS) -o $@
# Other machines: doc/PORTS.md has what each is and what came out. QUICK=1: a part, in a few minutes.
CROSS   ?= aarch64 arm riscv64 big-endian windows musl wasi
cross:
	@+tests/cross.sh $(CROSS)
units: $(patsubst %,$(BUILD)/tests/test_%,$(UNITS)) $(BUILD)/run $(BUILD)/export/export
bench: $(patsubst %,$(BUILD)/tests/bench_%,kernels scale latent factored decompose)
	@for b in $^; do $$b || exit 1; done
clean:
	rm -rf build run export/export

.PHONY: all test check sanitized fuzz fuzzers corpus soak cross units bench clean
.SECONDARY:
-include $(shell find $(BUILD) -name '*.d' 2>/dev/null)
