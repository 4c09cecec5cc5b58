/* Preloaded, this gives any program the path of Intel MKL that the CPU can do. MKL calls this function through the linker's table, and
 * takes its generic path after a 0, as it does on a CPU of another vendor. */
int mkl_serv_intel_cpu_true(void) {
    return 1;
}
