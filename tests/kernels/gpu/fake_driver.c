// As much of the CUDA driver as a launch calls: it notes what it is given, byte by byte, and runs nothing.

#include <stdint.h>
#include <string.h>

#include "cuda.h"

static int arguments, sizes[64], length;
static unsigned char noted[4096];

// how many arguments the next kernels take, and the bytes of each
void fake_expect(int n, const int *bytes) {
  arguments = n;
  memcpy(sizes, bytes, n * sizeof(int));
}

// what was noted since it was last asked for
int fake_take(unsigned char *to) {
  int taken = length;
  memcpy(to, noted, taken);
  length = 0;
  return taken;
}

static void note(const void *from, int bytes) {
  memcpy(noted + length, from, bytes);
  length += bytes;
}

static void note_launch(CUfunction function, const unsigned *numbers, CUstream stream, void **given, void **extra) {
  note(&function, sizeof function);
  note(numbers, 8 * sizeof(unsigned));
  note(&stream, sizeof stream);
  note(&extra, sizeof extra);
  for (int i = 0; i < arguments; i++) note(given[i], sizes[i]);
}

CUresult cuLaunchKernel(CUfunction function, unsigned x, unsigned y, unsigned z, unsigned threads, unsigned threads_y,
                        unsigned threads_z, unsigned shared, CUstream stream, void **given, void **extra) {
  const unsigned numbers[] = {x, y, z, threads, threads_y, threads_z, shared, 0};
  note_launch(function, numbers, stream, given, extra);
  return CUDA_SUCCESS;
}

CUresult cuLaunchKernelEx(const CUlaunchConfig *config, CUfunction function, void **given, void **extra) {
  const unsigned numbers[] = {config->gridDimX,  config->gridDimY,  config->gridDimZ,       config->blockDimX,
                              config->blockDimY, config->blockDimZ, config->sharedMemBytes, config->numAttrs};
  note_launch(function, numbers, config->hStream, given, extra);
  return CUDA_SUCCESS;
}

CUresult cuCtxGetCurrent(CUcontext *context) {
  *context = (CUcontext)1;
  return CUDA_SUCCESS;
}

CUresult cuPointerGetAttribute(void *to, CUpointer_attribute attribute, CUdeviceptr address) {
  memcpy(to, &address, sizeof address);
  return CUDA_SUCCESS;
}

CUresult cuGetErrorString(CUresult error, const char **text) {
  *text = "none";
  return CUDA_SUCCESS;
}
