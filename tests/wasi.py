#!/usr/bin/env python3
# Runs a WebAssembly program with what it is given: wasi.py PROGRAM [ARGUMENTS]. The folder it is started in
# is the only one that the program sees. Needs the package wasmtime; without it ends with code 77.
import sys
try:
    import wasmtime
except ImportError:
    sys.exit(77)

program = sys.argv[1]
engine = wasmtime.Engine()
linker = wasmtime.Linker(engine)
linker.define_wasi()
store = wasmtime.Store(engine)
config = wasmtime.WasiConfig()
config.argv = sys.argv[1:]
config.inherit_env()
config.inherit_stdin()
config.inherit_stdout()
config.inherit_stderr()
config.preopen_dir(".", ".")
config.preopen_dir("/tmp", "/tmp")
store.set_wasi(config)
instance = linker.instantiate(store, wasmtime.Module.from_file(engine, program))
try:
    instance.exports(store)["_start"](store)
except wasmtime.ExitTrap as end:
    sys.exit(end.code)
