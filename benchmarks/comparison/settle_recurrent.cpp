// The task of libtorch_recurrent.cpp: an hGRU trained through its fixed point by C-RBP.
// settle_recurrent FOLDER STEPS HELD_OUT
#include "settle/data/image_folder.hpp"
#include "settle/data/loader.hpp"
#include "settle/data/transforms.hpp"
#include "settle/nn/confusion_matrix.hpp"
#include "settle/nn/pixel_loss.hpp"
#include "settle/settle.hpp"

using namespace settle;

using Net = RecurrentNet<SquaringStem<float>, HgruCell<float>, BatchNormReadout<float>>;
constexpr int recurrent_steps = 10;

int main(int, char** words) {
  const DataSet all = ImageFolder(words[1], {.classes = {"255", "0"}});
  const Index held_out = std::stoll(words[3]), channels = 17;
  Loader<> loader(cached(all.range(0, all.size() - held_out), 1 << 30),
                  {.batch = 4, .transforms = {transforms::random_crop(64, 64)}});
  ParameterStreams random(1);
  Net net{SquaringStem<float>::initial(8, random), HgruCell<float>::initial(channels, 5, random, Initialisation::corrected),
          BatchNormReadout<float>::initial(channels, random)};
  const Rbp policy{{.stop = fixed_point::Steps{.count = recurrent_steps},
                    .adjoint = fixed_point::Neumann{.max_products = 6, .rtol = 0.1},
                    .penalty = fixed_point::Lcp{.lambda = 0.9, .two_sided = true},
                    .on_fail = fixed_point::OnFail::report}};
  Adam<float> adam({.rate = 0.003});
  for (Index step = 0; step < std::stoll(words[2]); ++step) {
    const Batch batch = loader.next();
    Tape<float> tape;
    const Net model = on_tape(net, tape);
    const auto result = run(model, Var(batch.image), policy);
    const Var<float> loss = penalised(pixel_loss(result.logits, batch.target), result.penalty);
    adam.step(net, grad(loss, parameters<Var<float>>(model)));
  }
  for (const int steps : {recurrent_steps, 3 * recurrent_steps}) {
    ConfusionMatrix counts(2);
    for (Index k = all.size() - held_out; k < all.size(); ++k) {
      const Batch batch = stack({all.sample(k)});
      counts.add(predict(net, Var(batch.image), steps).value(), batch.target);
    }
    std::printf("%d steps: F1 %.3f\n", steps, counts.f1());
  }
}
