// A net of four convolutions on FOLDER/images and the masks in FOLDER/labels: settle_layers FOLDER STEPS HELD_OUT.
#include "settle/data/image_folder.hpp"
#include "settle/data/loader.hpp"
#include "settle/data/transforms.hpp"
#include "settle/nn/confusion_matrix.hpp"
#include "settle/nn/pixel_loss.hpp"
#include "settle/settle.hpp"

using namespace settle;

struct Net {
  std::array<ConvLayer<float>, 4> layers;

  static Net initial() {
    ParameterStreams random(1);
    const auto layer = [&](Index in, Index out) { return ConvLayer<float>::initial(out, in, 5, random); };
    return {{layer(1, 16), layer(16, 16), layer(16, 16), layer(16, 2)}};
  }
  Var<float> operator()(const Var<float>& images) const {
    Var<float> x = images;
    for (const auto& layer : layers) x = layer(&layer == layers.data() ? x : relu(x));
    return x;
  }
  void parameters(auto&& visit) {
    for (std::size_t k = 0; k < layers.size(); ++k) visit_part("layer" + std::to_string(k), layers[k], visit);
  }
};

int main(int, char** words) {
  const DataSet all = ImageFolder(words[1], {.classes = {"255", "0"}});
  const Index held_out = std::stoll(words[3]);
  Loader<> loader(cached(all.range(0, all.size() - held_out), 1 << 30),
                  {.batch = 4, .transforms = {transforms::random_crop(64, 64)}});
  Net net = Net::initial();
  Adam<float> adam({.rate = 0.003});
  for (Index step = 0; step < std::stoll(words[2]); ++step) {
    const Batch batch = loader.next();
    Tape<float> tape;
    const Net model = on_tape(net, tape);
    const Var<float> loss = pixel_loss(model(batch.image), batch.target, {}, 0);
    adam.step(net, grad(loss, parameters<Var<float>>(model)));
  }
  ConfusionMatrix counts(2);
  for (Index k = all.size() - held_out; k < all.size(); ++k) {
    const Batch batch = stack({all.sample(k)});
    counts.add(net(batch.image).value(), batch.target);
  }
  std::printf("F1 %.3f\n", counts.f1());
}
