// The table of the kernels that were translated from PTX.
#include "ptx_launch.h"

#include <cstdio>
#include <cstdlib>
#include <map>

namespace ptx {
namespace {

struct Entry {
    size_t bytes;
    Function function;
};

std::map<std::string, Entry>& table() {
    static std::map<std::string, Entry> all;
    return all;
}

}  // namespace

Registration::Registration(const char* name, size_t bytes, Function function) { table()[name] = {bytes, function}; }

std::string plain_name(std::string pretty_function) {
    const size_t from = pretty_function.find("Kernel = ") + 9;
    std::string name = pretty_function.substr(from, pretty_function.find_first_of(";]", from) - from);
    for (const std::string scope : {"ldp::", "{anonymous}::"})
        for (size_t at = 0; (at = name.find(scope)) != std::string::npos;) name.erase(at, scope.size());
    return name;
}

Function find(const std::string& kernel, size_t bytes) {
    const auto found = table().find(kernel);
    if (found == table().end() || found->second.bytes != bytes) {
        std::fprintf(stderr,
                     "no PTX of the kernel %s with %zu bytes of parameters, of these:\n", kernel.c_str(), bytes);
        for (const auto& [name, entry] : table()) std::fprintf(stderr, "  %s, %zu\n", name.c_str(), entry.bytes);
        std::exit(70);
    }
    return found->second.function;
}

}  // namespace ptx
