// The task of examples/tutorial.cpp without its run folder: an hGRU trained through its fixed point by C-RBP.
// libtorch_recurrent FOLDER STEPS HELD_OUT
#include "libtorch_images.hpp"

using torch::Tensor;
namespace nn = torch::nn;
namespace F = torch::nn::functional;

constexpr int recurrent_steps = 10, products = 6;

struct CellImpl : nn::Module {
  explicit CellImpl(int channels)
      : inhibit(nn::Conv2dOptions(channels, channels, 5).padding(2).bias(false)),
        excite(nn::Conv2dOptions(channels, channels, 5).padding(2).bias(false)),
        gate1(nn::Conv2dOptions(channels, channels, 1)),
        gate2(nn::Conv2dOptions(channels, channels, 1)) {
    const auto norm = [&] {
      return nn::BatchNorm2d(nn::BatchNorm2dOptions(channels).eps(1e-3).track_running_stats(false));
    };
    norm1 = norm(), norm2 = norm();
    register_module("inhibit", inhibit), register_module("excite", excite);
    register_module("gate1", gate1), register_module("gate2", gate2);
    register_module("norm1", norm1), register_module("norm2", norm2);
    const auto vector = [&](const char* name, double value) {
      return register_parameter(name, torch::full({channels, 1, 1}, value));
    };
    alpha = vector("alpha", 0.1), mu = vector("mu", 1);
    gamma = vector("gamma", 1), kappa = vector("kappa", 0.5), omega = vector("omega", 0.5);
    for (auto& conv : {inhibit, excite, gate1, gate2}) nn::init::orthogonal_(conv->weight);
    nn::init::constant_(norm1->weight, 0.1), nn::init::constant_(norm2->weight, 0.1);
    torch::NoGradGuard no_grad;
    gate1->bias.uniform_(1, 7).log_();
    gate2->bias.copy_(-gate1->bias);
  }

  Tensor forward(const Tensor& h, const Tensor& x) {
    const Tensor c1 = norm1(inhibit(h * torch::sigmoid(gate1(h))));
    const Tensor s = F::softplus(x - F::softplus(c1 * (alpha * h + mu)));
    const Tensor g2 = torch::sigmoid(gate2(s)), c2 = norm2(excite(s));
    const Tensor next = F::softplus(kappa * s + gamma * c2 + omega * s * c2);
    return F::softplus((1 - g2) * h + g2 * next);
  }

  nn::Conv2d inhibit, excite, gate1, gate2;
  nn::BatchNorm2d norm1{nullptr}, norm2{nullptr};
  Tensor alpha, mu, gamma, kappa, omega;
};
TORCH_MODULE(Cell);

struct NetImpl : nn::Module {
  explicit NetImpl(int channels)
      : stem(nn::Conv2dOptions(1, channels, 7).padding(3)),
        cell(channels),
        norm(nn::BatchNorm2dOptions(channels).eps(1e-3).track_running_stats(false)),
        readout(nn::Conv2dOptions(channels, 2, 1)) {
    register_module("stem", stem), register_module("cell", cell);
    register_module("norm", norm), register_module("readout", readout);
  }

  Tensor predict(const Tensor& images, int steps) {
    torch::NoGradGuard no_grad;
    const Tensor x = stem(images).square();
    Tensor h = torch::zeros_like(x);
    for (int k = 0; k < steps; ++k) h = cell(h, x);
    return readout(norm(h));
  }

  /// Logits, and the penalty on the column sums of the last step's Jacobian.
  std::pair<Tensor, Tensor> train_run(const Tensor& images) {
    const Tensor x = stem(images).square();
    Tensor h = torch::zeros_like(x);
    {
      torch::NoGradGuard no_grad;
      for (int k = 1; k < recurrent_steps; ++k) h = cell(h, x);
    }
    const Tensor before = h.detach().requires_grad_();
    const Tensor last = cell(before, x);
    const Tensor sums = torch::autograd::grad({last.sum()}, {before}, {}, true, true)[0];
    const Tensor penalty = (torch::relu(sums - 0.9).square() + torch::relu(-sums - 0.9).square()).mean();

    // The adjoint (I - J^T)^-1 g by a Neumann series, in a graph of its own: the hook changes the gradient at `last`.
    const Tensor at = last.detach().requires_grad_();
    const Tensor step = cell(at, x.detach());
    const Tensor settled = last.clone();
    settled.register_hook([=](const Tensor& g) {
      Tensor term = g, sum = g;
      for (int k = 0; k < products; ++k) {
        term = torch::autograd::grad({step}, {at}, {term}, true)[0];
        sum = sum + term;
        if (term.norm().item<double>() < 0.1 * sum.norm().item<double>()) break;
      }
      return sum;
    });
    return {readout(norm(settled)), penalty};
  }

  nn::Conv2d stem;
  Cell cell;
  nn::BatchNorm2d norm;
  nn::Conv2d readout;
};
TORCH_MODULE(Net);

int main(int, char** words) {
  torch::manual_seed(1);
  const Folder data(words[1]);
  const auto first = static_cast<std::int64_t>(data.images.size()) - std::stoll(words[3]);
  Net net(17);
  torch::optim::Adam adam(net->parameters(), torch::optim::AdamOptions(0.003));
  for (int step = 0; step < std::stoi(words[2]); ++step) {
    const auto [images, masks] = data.batch(4, first);
    adam.zero_grad();
    const auto [logits, penalty] = net->train_run(images);
    const Tensor p = torch::softmax(logits, 1).gather(1, masks.unsqueeze(1));
    const Tensor loss = (-torch::log(p) * (1 - p.detach()).square()).mean();
    (loss + penalty).backward();
    adam.step();
  }
  for (const int steps : {recurrent_steps, 3 * recurrent_steps})
    std::printf("%d steps: F1 %.3f\n", steps, f1(data, first, [&](const Tensor& x) { return net->predict(x, steps); }));
}
