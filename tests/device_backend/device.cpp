// A device type for tests. Its memory is host memory, counted and limited. Its operators are the CPU's: they run on CPU
// tensors that share the device tensors' memory. A call that mixes device and CPU tensors raises, as on an accelerator;
// there is no float64, as on some accelerators.

#include <cstdlib>
#include <unordered_map>
#include <utility>
#include <vector>

#include <ATen/ATen.h>
#include <ATen/EmptyTensor.h>
#include <ATen/core/LegacyTypeDispatch.h>
#include <ATen/core/dispatch/Dispatcher.h>
#include <ATen/detail/PrivateUse1HooksInterface.h>
#include <ATen/ops/_reshape_alias_native.h>
#include <ATen/ops/as_strided_native.h>
#include <ATen/ops/resize_native.h>
#include <ATen/ops/set_native.h>
#include <ATen/ops/unfold_native.h>
#include <ATen/ops/view_native.h>
#include <c10/core/Allocator.h>
#include <c10/core/impl/DeviceGuardImplInterface.h>
#include <torch/library.h>

namespace {

constexpr auto kType = c10::DeviceType::PrivateUse1;
const c10::Device kDevice(kType, 0);

// ---- memory

struct Memory final : c10::Allocator {
  int64_t limit = 0;  // bytes; 0 means no limit
  int64_t live = 0;
  int64_t peak = 0;

  c10::DataPtr allocate(size_t bytes) override {
    if (bytes == 0) {
      return {nullptr, nullptr, &release, kDevice};
    }
    const auto wanted = static_cast<int64_t>(bytes);
    TORCH_CHECK_WITH(
        OutOfMemoryError, limit == 0 || live + wanted <= limit,
        "test device out of memory: tried to allocate ", wanted, " bytes, ", live, " of ", limit, " are in use");
    // The header holds the size. It is 64 bytes, so that the data is aligned for the CPU's vectorized kernels.
    auto* block = static_cast<char*>(std::aligned_alloc(kHeader, (kHeader + bytes + kHeader - 1) / kHeader * kHeader));
    TORCH_CHECK_WITH(OutOfMemoryError, block != nullptr, "the host has no ", wanted, " bytes for the test device");
    *reinterpret_cast<int64_t*>(block) = wanted;
    live += wanted;
    peak = std::max(peak, live);
    return {block + kHeader, block, &release, kDevice};
  }

  c10::DeleterFnPtr raw_deleter() const override { return nullptr; }

  void copy_data(void* to, const void* from, size_t bytes) const override { default_copy_data(to, from, bytes); }

  static void release(void* block);

  static constexpr size_t kHeader = 64;
};

Memory& memory() {
  static Memory instance;
  return instance;
}

void Memory::release(void* block) {
  if (block != nullptr) {
    memory().live -= *static_cast<int64_t*>(block);
    std::free(block);
  }
}

// ---- interfaces that torch requires of a device type

struct Guard final : c10::impl::DeviceGuardImplInterface {
  Guard() = default;
  explicit Guard(c10::DeviceType) {}
  c10::DeviceType type() const override { return kType; }
  c10::Device exchangeDevice(c10::Device) const override { return kDevice; }
  c10::Device getDevice() const override { return kDevice; }
  void setDevice(c10::Device) const override {}
  void uncheckedSetDevice(c10::Device) const noexcept override {}
  c10::Stream getStream(c10::Device) const override { return current_stream(); }
  c10::Stream getDefaultStream(c10::Device) const override { return current_stream(); }
  c10::Stream exchangeStream(c10::Stream stream) const override { return stream; }
  c10::DeviceIndex deviceCount() const noexcept override { return 1; }

 private:
  static c10::Stream current_stream() noexcept { return c10::Stream(c10::Stream::DEFAULT, kDevice); }
};

struct Hooks final : at::PrivateUse1HooksInterface {
  bool isBuilt() const override { return true; }
  bool isAvailable() const override { return true; }
  bool hasPrimaryContext(c10::DeviceIndex) const override { return true; }
  at::Device getDeviceFromPtr(void*) const override { return kDevice; }
  void resizePrivateUse1Bytes(const c10::Storage& storage, size_t bytes) const override {
    auto data = memory().allocate(bytes);
    memory().copy_data(data.mutable_get(), storage.data(), std::min(bytes, storage.nbytes()));
    storage.unsafeGetStorageImpl()->set_data_ptr_noswap(std::move(data));
    storage.unsafeGetStorageImpl()->set_nbytes(bytes);
  }
};

// ---- operators

// Converts device tensors to CPU tensors of the same memory, sizes and strides, and results back.
class HostView {
 public:
  explicit HostView(const c10::OperatorName& name) : name_(name) {}

  at::Tensor host(const at::Tensor& tensor) {
    if (!tensor.defined()) {
      return tensor;
    }
    if (tensor.device() != kDevice) {
      // Python numbers arrive as CPU tensors.
      TORCH_CHECK(
          tensor.unsafeGetTensorImpl()->is_wrapped_number(),
          "Expected all tensors to be on the same device, but ", name_, " got one of size ", tensor.sizes(), " on ",
          tensor.device(), " beside those on ", kDevice);
      return tensor;
    }
    for (const auto& [device, view] : tensors_) {
      if (device.is_same(tensor)) {
        return view;
      }
    }
    auto view = at::detail::make_tensor<c10::TensorImpl>(
        c10::Storage(host_storage(tensor.storage())), c10::DispatchKeySet(c10::DispatchKey::CPU), tensor.dtype());
    view.unsafeGetTensorImpl()->set_sizes_and_strides(tensor.sizes(), tensor.strides(), tensor.storage_offset());
    tensors_.emplace_back(tensor, view);
    return view;
  }

  c10::IValue host(const c10::IValue& value) {
    if (value.isTensor()) {
      return host(value.toTensor());
    }
    if (value.isTensorList()) {
      c10::List<at::Tensor> list;
      for (const at::Tensor& tensor : value.toTensorVector()) {
        list.push_back(host(tensor));
      }
      return list;
    }
    if (value.isOptionalTensorList()) {
      c10::List<std::optional<at::Tensor>> list;
      for (const std::optional<at::Tensor>& tensor : value.toOptionalTensorVector()) {
        list.push_back(tensor ? std::optional(host(*tensor)) : std::nullopt);
      }
      return list;
    }
    if (value.isDevice() && value.toDevice().type() == kType) {
      return c10::Device(c10::kCPU);
    }
    return value;
  }

  // Copies arguments that the operator resized or moved to other memory back to the device tensors.
  void write_back() {
    for (auto& [device, view] : tensors_) {
      const auto& storage = host_storage(device.storage());
      if (view.sizes() != device.sizes() || storage.data() != device.storage().data()) {
        device.resize_(view.sizes());
        HostView fresh(name_);
        fresh.host(device).copy_(view);
      }
    }
  }

  at::Tensor device(const at::Tensor& result) {
    if (!result.defined()) {
      return result;
    }
    for (const auto& [device, view] : tensors_) {
      if (view.is_same(result)) {
        return device;
      }
    }
    for (const auto& [device, view] : tensors_) {
      if (view.storage().is_alias_of(result.storage())) {
        return at::native::as_strided_tensorimpl(device, result.sizes(), result.strides(), result.storage_offset());
      }
    }
    auto copy = at::empty_like(result, result.options().device(kDevice));
    HostView fresh(name_);
    fresh.host(copy).copy_(result);
    return copy;
  }

  c10::IValue device(const c10::IValue& value) {
    if (value.isTensor()) {
      return device(value.toTensor());
    }
    if (value.isTensorList()) {
      c10::List<at::Tensor> list;
      for (const at::Tensor& tensor : value.toTensorVector()) {
        list.push_back(device(tensor));
      }
      return list;
    }
    return value;
  }

 private:
  c10::Storage& host_storage(const c10::Storage& storage) {
    auto* key = storage.unsafeGetStorageImpl();
    auto found = storages_.find(key);
    if (found == storages_.end()) {
      c10::DataPtr borrowed(storage.mutable_data(), c10::Device(c10::kCPU));
      c10::Storage host(
          c10::Storage::use_byte_size_t(), storage.nbytes(), std::move(borrowed), c10::GetAllocator(c10::kCPU), true);
      found = storages_.emplace(key, std::move(host)).first;
    }
    return found->second;
  }

  const c10::OperatorName& name_;
  std::unordered_map<c10::StorageImpl*, c10::Storage> storages_;
  std::vector<std::pair<at::Tensor, at::Tensor>> tensors_;
};

void on_host(const c10::OperatorHandle& op, torch::jit::Stack* stack) {
  at::AutoDispatchBelowADInplaceOrView no_autograd;
  HostView view(op.operator_name());
  const auto arguments = op.schema().arguments().size();
  for (size_t index = 0; index < arguments; ++index) {
    auto& argument = torch::jit::peek(*stack, index, arguments);
    argument = view.host(argument);
  }
  op.callBoxed(stack);
  view.write_back();
  const auto results = op.schema().returns().size();
  for (size_t index = 0; index < results; ++index) {
    auto& result = torch::jit::peek(*stack, index, results);
    result = view.device(result);
  }
}

at::ScalarType supported(std::optional<at::ScalarType> dtype) {
  const auto type = c10::dtype_or_default(dtype);
  // diffusers computes positions in float64, except on devices that it knows to lack float64.
  TORCH_CHECK_TYPE(type != at::kDouble || std::getenv("TESTDEV_FLOAT64"), "the test device has no float64");
  return type;
}

at::Tensor empty(
    at::IntArrayRef size, std::optional<at::ScalarType> dtype, std::optional<at::Layout>, std::optional<at::Device>,
    std::optional<bool>, std::optional<at::MemoryFormat> format) {
  return at::detail::empty_generic(
      size, &memory(), c10::DispatchKeySet(c10::DispatchKey::PrivateUse1), supported(dtype), format);
}

at::Tensor empty_strided(
    at::IntArrayRef size, at::IntArrayRef stride, std::optional<at::ScalarType> dtype, std::optional<at::Layout>,
    std::optional<at::Device>, std::optional<bool>) {
  return at::detail::empty_strided_generic(
      size, stride, &memory(), c10::DispatchKeySet(c10::DispatchKey::PrivateUse1), supported(dtype));
}

at::Tensor on_either(HostView& view, const at::Tensor& tensor) {
  return tensor.device() == kDevice ? view.host(tensor) : tensor;
}

const c10::OperatorName& copy_name() {
  static const c10::OperatorName name("aten::_copy_from", "");
  return name;
}

// The only operator that accepts tensors of both devices.
at::Tensor copy_from(const at::Tensor& from, const at::Tensor& to, bool) {
  HostView view(copy_name());
  on_either(view, to).copy_(on_either(view, from));
  return to;
}

at::Tensor copy_from_and_resize(const at::Tensor& from, const at::Tensor& to) {
  to.resize_(from.sizes());
  return copy_from(from, to, false);
}

at::Scalar item(const at::Tensor& tensor) {
  HostView view(copy_name());
  return at::_local_scalar_dense(view.host(tensor));
}

at::Tensor& set_to_storage(at::Tensor& tensor, at::Storage source) {
  const auto elements = static_cast<int64_t>(source.nbytes() / tensor.element_size());
  return at::native::set_storage_cpu_(tensor, std::move(source), 0, {elements}, {});
}

at::Tensor& set_to_nothing(at::Tensor& tensor) {
  return at::native::set_storage_cpu_(tensor, c10::Storage(c10::Storage::use_byte_size_t(), 0, &memory(), true), 0, {0}, {});
}

}  // namespace

C10_REGISTER_GUARD_IMPL(PrivateUse1, Guard);

TORCH_LIBRARY_IMPL(_, PrivateUse1, m) {
  m.fallback(torch::CppFunction::makeFromBoxedFunction<&on_host>());
}

TORCH_LIBRARY_IMPL(aten, PrivateUse1, m) {
  m.impl("empty.memory_format", &empty);
  m.impl("empty_strided", &empty_strided);
  m.impl("_copy_from", &copy_from);
  m.impl("_copy_from_and_resize", &copy_from_and_resize);
  m.impl("_local_scalar_dense", &item);
  m.impl("as_strided", &at::native::as_strided_tensorimpl);
  m.impl("view", &at::native::view);
  m.impl("_reshape_alias", &at::native::_reshape_alias);
  m.impl("unfold", &at::native::unfold);
  m.impl("resize_", &at::native::resize_);
  m.impl("set_", &set_to_nothing);
  m.impl("set_.source_Tensor", &at::native::set_tensor_);
  m.impl("set_.source_Storage", &set_to_storage);
  m.impl("set_.source_Storage_storage_offset", &at::native::set_storage_cpu_);
  // torch composes these of other operators, of different ones per device: they must run whole to give the CPU's bits.
  for (const char* name : {"linear", "matmul", "scaled_dot_product_attention", "convolution"}) {
    m.impl(name, torch::CppFunction::makeFromBoxedFunction<&on_host>());
  }
  // Likewise, operators with a CPU kernel must not be composed of others on the device, as a layer norm would be.
  auto& dispatcher = c10::Dispatcher::singleton();
  for (const auto& name : dispatcher.getAllOpNames()) {
    const auto op = dispatcher.findOp(name);
    if (name.name.rfind("aten::", 0) == 0 && op && op->hasKernelForDispatchKey(c10::DispatchKey::CPU) &&
        !op->hasKernelForDispatchKey(c10::DispatchKey::PrivateUse1)) {
      const auto leaf = name.name.substr(6) + (name.overload_name.empty() ? "" : "." + name.overload_name);
      m.impl(leaf.c_str(), torch::CppFunction::makeFromBoxedFunction<&on_host>());
    }
  }
}

TORCH_LIBRARY(fa3_test_device, m) {
  m.def("set_limit(int bytes) -> ()", [](int64_t bytes) { memory().limit = bytes; });
  m.def("live() -> int", []() { return memory().live; });
  m.def("peak() -> int", []() { return memory().peak; });
  m.def("reset_peak() -> ()", []() { memory().peak = memory().live; });
}

static const bool registered = [] {
  c10::SetAllocator(kType, &memory());
  static Hooks hooks;
  at::RegisterPrivateUse1HooksInterface(&hooks);
  return true;
}();
