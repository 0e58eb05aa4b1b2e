// The task of settle_layers.cpp.
#include "libtorch_images.hpp"

int main(int, char** words) {
  using namespace torch::nn;
  torch::manual_seed(1);
  const Folder data(words[1]);
  const auto first = static_cast<std::int64_t>(data.images.size()) - std::stoll(words[3]);
  const auto layer = [](int in, int out) { return Conv2d(Conv2dOptions(in, out, 5).padding(2)); };
  Sequential net(layer(1, 16), ReLU(), layer(16, 16), ReLU(), layer(16, 16), ReLU(), layer(16, 2));
  torch::optim::Adam adam(net->parameters(), torch::optim::AdamOptions(0.003));
  for (int step = 0; step < std::stoi(words[2]); ++step) {
    const auto [images, masks] = data.batch(4, first);
    adam.zero_grad();
    functional::cross_entropy(net->forward(images), masks).backward();
    adam.step();
  }
  std::printf("F1 %.3f\n", f1(data, first, [&](const torch::Tensor& x) { return net->forward(x); }));
}
