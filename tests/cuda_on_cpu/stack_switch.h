// Going from one stack to another: a few instructions where we know them, ucontext (with a system call) elsewhere.
#pragma once

#include <cstddef>
#include <cstdint>
#include <cstring>

namespace cuda_on_cpu {

#if defined(__x86_64__) && defined(__linux__)

using StackPointer = void*;

// Saves what a callee has to keep on the stack it leaves, takes it from the one it goes to.
extern "C" void ldp_switch_stack(void** from, void* to);
asm(R"(
    .text
    .type ldp_switch_stack, @function
ldp_switch_stack:
    pushq %rbp
    pushq %rbx
    pushq %r12
    pushq %r13
    pushq %r14
    pushq %r15
    movq %rsp, (%rdi)
    movq %rsi, %rsp
    popq %r15
    popq %r14
    popq %r13
    popq %r12
    popq %rbx
    popq %rbp
    ret
    .size ldp_switch_stack, .-ldp_switch_stack
)");

inline void switch_stack(StackPointer& from, StackPointer& to) { ldp_switch_stack(&from, to); }

inline void prepare_stack(StackPointer& pointer, char* stack, size_t bytes, void (*entry)()) {
    auto* top = reinterpret_cast<uintptr_t*>(stack + bytes);  // 16-byte aligned
    *--top = 0;  // where entry would return to; at its first instruction the stack is 8 bytes off a multiple of 16
    *--top = reinterpret_cast<uintptr_t>(entry);
    top -= 6;
    std::memset(top, 0, 6 * sizeof(*top));
    pointer = top;
}

#else

}  // namespace cuda_on_cpu

#include <ucontext.h>

namespace cuda_on_cpu {

using StackPointer = ucontext_t;

inline void switch_stack(StackPointer& from, StackPointer& to) { swapcontext(&from, &to); }

inline void prepare_stack(StackPointer& pointer, char* stack, size_t bytes, void (*entry)()) {
    getcontext(&pointer);
    pointer.uc_stack.ss_sp = stack;
    pointer.uc_stack.ss_size = bytes;
    pointer.uc_link = nullptr;
    makecontext(&pointer, entry, 0);
}

#endif

}  // namespace cuda_on_cpu
