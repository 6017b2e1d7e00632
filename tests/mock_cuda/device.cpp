// Lets torch, built without CUDA, know of one CUDA device: autograd asks for its guard and its hooks.

#include <ATen/detail/CUDAHooksInterface.h>
#include <c10/core/impl/DeviceGuardImplInterface.h>

#include <cstring>

namespace {

using c10::Device;
using c10::DeviceIndex;
using c10::DeviceType;
using c10::Stream;

// streams and events are of no effect: all that is asked for is done at once
struct Guard final : c10::impl::NoOpDeviceGuardImpl<DeviceType::CUDA> {
  Device exchangeDevice(Device) const override { return {DeviceType::CUDA, 0}; }
  Device getDevice() const override { return {DeviceType::CUDA, 0}; }
  Stream getStream(Device) const noexcept override { return only(); }
  Stream getDefaultStream(Device) const override { return only(); }
  Stream getNewStream(Device, int) const override { return only(); }
  Stream exchangeStream(Stream) const noexcept override { return only(); }
  DeviceIndex deviceCount() const noexcept override { return 1; }

  static Stream only() { return Stream(Stream::DEFAULT, Device(DeviceType::CUDA, 0)); }
};

struct Hooks final : at::CUDAHooksInterface {
  void init() const override {}
  bool hasCUDA() const override { return true; }
  bool isBuilt() const override { return true; }
  bool isAvailable() const override { return true; }
  bool hasPrimaryContext(DeviceIndex) const override { return true; }
  DeviceIndex deviceCount() const override { return 1; }
  DeviceIndex current_device() const override { return 0; }
  DeviceIndex getCurrentDevice() const override { return 0; }
  void setCurrentDevice(DeviceIndex) const override {}
  DeviceIndex exchangeDevice(DeviceIndex) const override { return 0; }
  DeviceIndex maybeExchangeDevice(DeviceIndex) const override { return 0; }
};

const Guard guard;
const Hooks hooks;
void *before;

}  // namespace

// torch asks once for its hooks, and keeps them: what is kept becomes ours by its table of functions
extern "C" void mock_cuda(int on) {
  void *kept = const_cast<at::CUDAHooksInterface *>(&at::detail::getCUDAHooks());
  if (before == nullptr) std::memcpy(&before, kept, sizeof before);
  void *ours;
  std::memcpy(&ours, &hooks, sizeof ours);
  std::memcpy(kept, on ? &ours : &before, sizeof ours);
  c10::impl::registerDeviceGuard(DeviceType::CUDA, on ? &guard : nullptr);
}
