// The operator of this room, as csrc/library.cpp registers it.
#pragma once

#include <ldp/tensors.h>

namespace ldp {

void frozen_conv_op(Tensor out, Tensor workspace, Tensor x, Tensor weight, OptionalTensor bias, OptionalTensor scale,
                    OptionalTensor shift, OptionalTensor addend, int64_t kind, int64_t threads);

}  // namespace ldp
