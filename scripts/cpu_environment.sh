# For training on CPUs; source it before Python starts, which reads these only then: source scripts/cpu_environment.sh

# glibc gives each big buffer back to the system when it is freed and maps it again, page by page, in the next step: a
# fifth of a training step of MobileNetV3. These keep the memory, in one arena: those of XLA's threads cannot hold a buffer
# of more than 64 MB. docs/performance.md has the figures.
export MALLOC_ARENA_MAX=1
export MALLOC_MMAP_THRESHOLD_=4000000000
export MALLOC_TRIM_THRESHOLD_=8000000000
export MALLOC_TOP_PAD_=268435456

# XLA's order of operations: for memory, not for operations side by side. LLVM's level 1 instead of 3: programs as fast,
# compiled in a fifth less time. docs/performance.md has the figures.
export XLA_FLAGS="${XLA_FLAGS:-} --xla_cpu_enable_concurrency_optimized_scheduler=false --xla_backend_optimization_level=1"
